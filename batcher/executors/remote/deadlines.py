"""What is left of a batch's deadline, for the call that travels to a neighbor."""

from __future__ import annotations

import time
from typing import Final

from batcher.clock import SECOND

DEADLINE_SLACK_S: Final = 0.02
"""Seconds added to what is left of a deadline, so that the scheduler ends a request that expires, with
the right status, before the call does. The neighbor may work that much longer for nothing."""


def left_s(deadline_ns: int | None) -> float | None:
    """How many seconds a call may take (`Batch.deadline_ns`); None without a deadline."""
    if deadline_ns is None:
        return None
    return max(0.0, (deadline_ns - time.monotonic_ns()) / SECOND) + DEADLINE_SLACK_S
