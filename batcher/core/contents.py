"""All that a scheduler holds, in one place: what its handlers change and a snapshot captures.

Nothing here decides anything. `State` (`state.py`) is the same as a plain value.
"""

from __future__ import annotations

from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.policies import PolicyFactory
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.ledger import Ledger
from batcher.core.times import NEVER_NS


class Contents:
    """Models with their queues, instances, live requests, and when the scheduler must act again."""

    __slots__ = (
        "ask_again_ns",
        "expiry",
        "fleet",
        "ledger",
        "live",
        "make_policy",
        "models",
        "near_limit",
        "near_until_ns",
        "next_batch_id",
        "next_limit_ns",
        "now_ns",
        "policy_errors",
        "raise_at_ns",
        "undecided",
    )

    def __init__(self, make_policy: PolicyFactory) -> None:
        self.now_ns = 0
        """The time of the last step, in nanoseconds; it never goes back."""
        self.models: dict[str, Model] = {}
        self.fleet = Fleet()
        self.ledger = Ledger(self.models, self.fleet)
        self.live, self.expiry = self.ledger.live, self.ledger.expiry
        self.make_policy = make_policy
        self.policy_errors: list[tuple[Model, str]] = []
        """Policies that have failed and were not reported yet, and why."""
        self.next_batch_id = 1
        self.undecided = False
        """Whether something has happened since the last decision that may lead to another."""
        self.ask_again_ns: int | None = None
        """When a policy wants to be asked again; None while it waits for events."""
        self.next_limit_ns = NEVER_NS
        """No waiting request reaches its limit before this."""
        self.near_limit: list[LiveRequest] = []
        """Those that reach it next: all whose limits come before `near_until_ns`."""
        self.near_until_ns = NEVER_NS
        self.raise_at_ns = NEVER_NS
        """When the next memory ceiling is raised (`faults.memory_ceiling`)."""

    def note_limit(self, limit_ns: int) -> None:
        """Note that a request waits whose limit comes before `near_until_ns`."""
        self.next_limit_ns = self.near_until_ns = min(self.next_limit_ns, limit_ns)
        self.near_limit = []

    def unblock(self) -> None:
        """Ask every model's policy again: instances may have become free."""
        for model in self.models.values():
            model.blocked = False

    def reset_device_shares(self) -> None:
        """Forget which part of a device each model has: other models share it now."""
        for model in self.models.values():
            model.device_use.share = 1.0

    def ask_at_prefetch(self, model: Model) -> None:
        """Decide again when a batch may be prefetched for the model, if enough waits."""
        if model.blocked and model.may_prefetch:
            again_ns, prefetch_at_ns = self.ask_again_ns, model.prefetch_at_ns
            self.ask_again_ns = (
                prefetch_at_ns if again_ns is None else min(again_ns, prefetch_at_ns)
            )
