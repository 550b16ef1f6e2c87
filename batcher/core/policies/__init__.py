"""When the waiting requests of a batch group become a batch.

`BatchPolicy` (interface.py) is the whole interface, and `make_policy` the only place that names the
policies that a server can use. Tests and simulations may pass another factory to `Scheduler`.

A policy is asked (`decide`) only while an instance is free, so every batch is formed as late as
possible, from all that has arrived by then; or shortly before, where a full batch waits, for the
moment at which one will be free. It gets a group and a `PolicyInput`, and answers `Take` (the first
`count` requests, now), `Wait` (ask again at `until_ns` at the latest) or `Choose` (these requests).
With each answer it can name requests to give up.

What a policy may touch:

- It may read the group and its requests, its `PolicyInput` and its settings, and keep state of its
  own. State that decides what it does next belongs into `capture` and `restore`.
- It must not change the group, the requests or the service times, and knows no clock, random number,
  log or thread: time is `given.now_ns`, and equal input gives equal answers.
- It knows nothing of instances, other models, other groups or commands. The core checks its answers,
  makes late or refuses what it gave up, and chooses among the batches of several groups.

`bench/sim ablation` switches each heuristic off, and plays each constant 30 % smaller and 40 % larger.

A policy that raises, or whose answer is not possible, is not asked again: its model goes on with
`greedy_policy` until it is configured anew.
"""

from __future__ import annotations

from typing import Protocol, assert_never

from batcher.core.policies.adaptive import AdaptivePolicy
from batcher.core.policies.fixed import FixedWindowPolicy
from batcher.core.policies.interface import (
    BatchPolicy,
    Choose,
    Decision,
    PolicyInput,
    Take,
    Wait,
)
from batcher.core.policies.none import NoBatchingPolicy
from batcher.core.queueing.ranks import default_rank
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching

__all__ = [
    "BatchPolicy",
    "Choose",
    "Decision",
    "PolicyFactory",
    "PolicyInput",
    "Take",
    "Wait",
    "greedy_policy",
    "make_policy",
]


class PolicyFactory(Protocol):
    """Builds the policy that a model's settings ask for."""

    def __call__(self, settings: ModelSettings) -> BatchPolicy:
        """Returns a new policy for these settings. What it raises refuses the settings."""
        ...


def make_policy(settings: ModelSettings) -> BatchPolicy:
    """Returns a new policy as a model's settings ask for it."""
    match settings.policy:
        case Adaptive():
            return AdaptivePolicy(
                settings.policy,
                settings.max_batch_size,
                settings.target_ns,
                default_rank(settings.queue),
            )
        case FixedWindow():
            return FixedWindowPolicy(settings.policy, settings.max_batch_size)
        case NoBatching():
            return NoBatchingPolicy()
        case _ as unknown:
            assert_never(unknown)


def greedy_policy(max_batch_size: int) -> BatchPolicy:
    """Returns the policy that takes the largest batch of what waits, at once.

    It is `fixed` without a delay, and what a model falls back to when its own policy fails.
    """
    return FixedWindowPolicy(FixedWindow(), max_batch_size)
