"""When a lane's waiting requests become a batch.

A policy is asked only while an instance is free, so every batch is formed late, from all that has
arrived by then; or, where a full batch waits, shortly before, for the moment at which one will be. So
the moment of a decision may lie ahead of the arrivals, and what was decided need not happen.

A policy is told the `PolicyInput` and answers `Take` (the first `count` requests of the lane, now),
`Wait` (ask again at `until_ns` at the latest) or `Choose`; each can also name requests to give up,
because they would be late whatever happens or because others would be. A policy is its settings
plus explicit state; it may read the lane and must not change it.
"""

from __future__ import annotations

from typing import Protocol, assert_never

from batcher.core.policies.adaptive import AdaptivePolicy
from batcher.core.policies.fixed import FixedWindowPolicy
from batcher.core.policies.interface import Choose, Decision, PolicyInput, Take, Wait
from batcher.core.policies.none import NoBatchingPolicy
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching

__all__ = [
    "AdaptivePolicy",
    "BatchPolicy",
    "Choose",
    "Decision",
    "FixedWindowPolicy",
    "NoBatchingPolicy",
    "PolicyFactory",
    "PolicyInput",
    "Take",
    "Wait",
    "make_policy",
]


class BatchPolicy(Protocol):
    """One model's batching policy."""

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """What to do with a non-empty lane while an instance is free, or when it will be."""
        ...


class PolicyFactory(Protocol):
    """Builds the policy that a model's settings ask for."""

    def __call__(self, settings: ModelSettings) -> BatchPolicy:
        """A fresh policy for these settings."""
        ...


def make_policy(settings: ModelSettings) -> BatchPolicy:
    """The policy that a model's settings ask for."""
    match settings.policy:
        case Adaptive():
            return AdaptivePolicy(settings.policy, settings.max_batch_size, settings.target_ns)
        case FixedWindow():
            return FixedWindowPolicy(settings.policy, settings.max_batch_size)
        case NoBatching():
            return NoBatchingPolicy()
        case _ as unknown:
            assert_never(unknown)
