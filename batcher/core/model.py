"""One model as the scheduler knows it: settings, queue, policy."""

from __future__ import annotations

from batcher.core.policies import BatchPolicy, PolicyFactory
from batcher.core.queue import ModelQueue
from batcher.core.settings import ModelSettings


class Model:
    """Settings may change at any time; the queue stays and the policy is made anew."""

    __slots__ = ("_make_policy", "name", "policy", "policy_failed", "queue", "settings")

    def __init__(self, name: str, settings: ModelSettings, make_policy: PolicyFactory) -> None:
        self.name = name
        self.queue = ModelQueue()
        self._make_policy = make_policy
        self.configure(settings)

    def configure(self, settings: ModelSettings) -> None:
        """Take new settings."""
        self.settings = settings
        self.policy: BatchPolicy = self._make_policy(settings)
        self.policy_failed = False
