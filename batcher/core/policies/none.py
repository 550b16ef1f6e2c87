"""The policy `none`: each request is a batch of its own, in the order of arrival."""

from __future__ import annotations

from batcher.core.policies.interface import BatchPolicy, Decision, PolicyInput, Take
from batcher.core.queueing.batch_groups import BatchGroup


class NoBatchingPolicy(BatchPolicy):
    """Stateless: the answer is always the same."""

    __slots__ = ()

    fills_batches = False

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:  # noqa: ARG002 - the interface
        """Take the first request, now."""
        return Take(1)
