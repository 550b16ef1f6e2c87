"""What damps a HorizontalPodAutoscaler: windows over recommendations, and policies over changes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from batcher.autoscaling.settings import HpaSettings, PolicyKind, ScalingRules, SelectPolicy


@dataclass(frozen=True, slots=True)
class Bounded:
    """A size inside the bounds, and what bounded it (empty if nothing did)."""

    size: int
    by: str


@dataclass(slots=True)
class Behavior:
    """The recent recommendations and changes of one autoscaler. `tell` it every change that was carried out."""

    settings: HpaSettings
    _recommended: deque[tuple[int, int]] = field(default_factory=deque)
    _changes: deque[tuple[int, int]] = field(default_factory=deque)

    def begin(self, now_ns: int, current: int) -> None:
        """Takes the size that is found for the first recommendation, so that a new controller drops nothing at once."""
        if not self._recommended:
            self._recommended.append((now_ns, current))

    def stabilize(self, now_ns: int, current: int, wanted: int) -> int:
        """Returns `wanted`, held back by what was recommended within the windows, and remembers it.

        Up, the lowest recommendation of the window of `scale_up` counts; down, the highest of that of `scale_down`;
        between the two the size stays.
        """
        up_from = now_ns - self.settings.scale_up.stabilization_ns
        down_from = now_ns - self.settings.scale_down.stabilization_ns
        while self._recommended and self._recommended[0][0] <= min(up_from, down_from):
            self._recommended.popleft()
        lowest = min([wanted, *(size for at, size in self._recommended if at > up_from)])
        highest = max([wanted, *(size for at, size in self._recommended if at > down_from)])
        self._recommended.append((now_ns, wanted))
        return min(max(current, lowest), highest)

    def limit(self, now_ns: int, current: int, wanted: int) -> Bounded:
        """Returns `wanted` inside the policies and the bounds of replicas."""
        if wanted > current:
            allowed = max(self._highest(now_ns, current), current)
            bound = min(allowed, self.settings.max_replicas)
            if wanted > bound:
                return Bounded(
                    bound, "policy" if allowed < self.settings.max_replicas else "maximum"
                )
        elif wanted < current:
            allowed = min(self._lowest(now_ns, current), current)
            bound = max(allowed, self.settings.min_replicas)
            if wanted < bound:
                return Bounded(
                    bound, "policy" if allowed > self.settings.min_replicas else "minimum"
                )
        return Bounded(wanted, "")

    def tell(self, now_ns: int, before: int, after: int) -> None:
        """Remembers a change, for as long as the longest policy looks back."""
        rules = (self.settings.scale_up, self.settings.scale_down)
        longest = max(policy.period_ns for side in rules for policy in side.policies)
        while self._changes and self._changes[0][0] <= now_ns - longest:
            self._changes.popleft()
        self._changes.append((now_ns, after - before))

    def _highest(self, now_ns: int, current: int) -> int:
        rules = self.settings.scale_up
        if rules.select is SelectPolicy.DISABLED:
            return current
        choose = min if rules.select is SelectPolicy.MIN else max
        return choose(self._proposals(now_ns, current, rules, 1))

    def _lowest(self, now_ns: int, current: int) -> int:
        rules = self.settings.scale_down
        if rules.select is SelectPolicy.DISABLED:
            return current
        choose = max if rules.select is SelectPolicy.MIN else min
        return choose(self._proposals(now_ns, current, rules, -1))

    def _proposals(
        self, now_ns: int, current: int, rules: ScalingRules, sign: int
    ) -> Iterable[int]:
        """Yields the size that each policy allows: so much above or below what there was when its period began."""
        for policy in rules.policies:
            cutoff = now_ns - policy.period_ns
            began = current - sum(change for at, change in self._changes if at > cutoff)
            if policy.kind is PolicyKind.PODS:
                yield began + sign * policy.value
            elif sign > 0:
                yield math.ceil(began * (1 + policy.value / 100))
            else:
                yield int(began * (1 - policy.value / 100))
