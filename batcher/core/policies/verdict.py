"""What a policy can answer."""

from __future__ import annotations

from typing import TypeAlias

from batcher.core.record import record


@record
class Take:
    """Form a batch now from the first `count` requests of the lane."""

    count: int


@record
class Wait:
    """Nothing yet; ask again at `until_ns`, or whenever something changes."""

    until_ns: int


Verdict: TypeAlias = Take | Wait
