"""One model as the scheduler knows it: settings, queue, policy."""

from __future__ import annotations

from batcher.core.policies import BatchPolicy, NoBatchingPolicy, PolicyFactory
from batcher.core.queue import ModelQueue
from batcher.core.settings import ModelSettings


class Model:
    """Settings may change at any time; the queue stays and the policy is made anew."""

    __slots__ = ("_make_policy", "name", "policy", "policy_failed", "queue", "settings")

    def __init__(self, name: str, settings: ModelSettings, make_policy: PolicyFactory) -> None:
        self.name = name
        self.settings = settings
        self.queue = ModelQueue()
        self.policy: BatchPolicy = NoBatchingPolicy()
        self.policy_failed = False
        self._make_policy = make_policy

    def configure(self, settings: ModelSettings) -> None:
        """Take new settings and their policy; raises whatever the policy's factory raises."""
        self.settings = settings
        self.fall_back()
        self.policy = self._make_policy(settings)
        self.policy_failed = False

    def fall_back(self) -> None:
        """Run without batching from now on, because the policy broke its contract."""
        self.policy = NoBatchingPolicy()
        self.policy_failed = True
