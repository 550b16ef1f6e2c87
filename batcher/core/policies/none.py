"""The policy `none`: every request alone, in order of arrival."""

from __future__ import annotations

from batcher.core.policies.interface import Decision, PolicyInput, Take
from batcher.core.queueing.batch_groups import BatchGroup


class NoBatchingPolicy:
    """Also what a model falls back to when its own policy fails: it cannot."""

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:  # noqa: ARG002 - the interface
        """Take the head, now."""
        return Take(1)
