"""The policy `none`: every request alone, in order of arrival."""

from __future__ import annotations

from batcher.core.policies.verdict import Situation, Take, Verdict
from batcher.core.queue import Lane


class NoBatchingPolicy:
    """Also what a model falls back to when its own policy fails: it cannot."""

    def decide(self, lane: Lane, situation: Situation) -> Verdict:  # noqa: ARG002 - the interface
        """Take the head, now."""
        return Take(1)
