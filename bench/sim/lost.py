"""Requests of lost batches run once more: in groups of which size, with a killer among them and without.

One of two instances goes down. Either a request brings it down, and does so each time that it runs, or something
from outside does, once. The instance is up again after a second. `bench/sim lost` plays both with the groups in
force, of the square root of the lost requests, and with all together, in halves, and alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import world

from batcher.clock import SECOND
from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import InstanceDown, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.faults import bisection
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings
from batcher.simulation import Driver

RULES: dict[str, Callable[[int], int]] = {
    "square root": math.isqrt,
    "together": lambda parts: parts,
    "halves": lambda parts: max(1, -(-parts // 2)),
    "alone": lambda parts: min(1, parts),
}
LOADS = (0.5, 0.8)
INSTANCES = ("m#0", "m#1")
LOST_NS, RESTART_NS, UNTIL_NS = SECOND, SECOND, 4 * SECOND
DEADLINE_NS = 3 * SECOND
LEAST_SAVED = 0.75
"""Of those that were lost beside a killer, so many are answered."""


class Play:
    """One run: who was lost, and how every request ended."""

    def __init__(self, load: float, seed: int, *, killer: bool) -> None:
        profile = world.PROFILES["linear50"]
        self.curve, draw = profile.curve, np.random.default_rng(seed)
        self.rows = len(self.curve) - 1
        gap_ns = self.curve[self.rows] / self.rows / load / len(INSTANCES)
        gaps = draw.exponential(gap_ns, int(UNTIL_NS / gap_ns))
        self.at_ns = np.cumsum(gaps).astype(int)
        self.killer = int(np.searchsorted(self.at_ns, LOST_NS)) if killer else -1
        self.ended: dict[int, tuple[Outcome, int]] = {}
        self.lost: set[int] = set()
        self._running: dict[int, Dispatch] = {}
        self._incarnations = dict.fromkeys(INSTANCES, 1)
        self.driver = Driver(Scheduler(), self._takes_ns, observe=self._observe)
        settings = ModelSettings(
            self.rows, Adaptive(limit_ns=DEADLINE_NS), target_ns=profile.target_ns, idempotent=True
        )
        self.driver.step([ModelConfigured("m", settings), *map(self._up, INSTANCES)], 0)
        if not killer:
            self._takes_down(INSTANCES[0], LOST_NS)
        self.driver.run(
            (at_ns, RequestArrived(number, "m", 1, 1, (), "", at_ns, None, at_ns + DEADLINE_NS))
            for number, at_ns in enumerate(self.at_ns.tolist())
        )

    def _takes_ns(self, dispatch: Dispatch) -> int:
        return int(self.curve[sum(part.stop - part.start for part in dispatch.parts)])

    def _up(self, name: str) -> InstanceUp:
        profile = tuple((rows, int(self.curve[rows])) for rows in world.WARMUP)
        return InstanceUp(name, self._incarnations[name], "m", name, 1, profile)

    def _takes_down(self, name: str, at_ns: int) -> None:
        self.driver.post(at_ns, InstanceDown(name, self._incarnations[name]))
        self._incarnations[name] += 1
        self.driver.post(at_ns + RESTART_NS, self._up(name))

    def _observe(self, now_ns: int, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Settle):
                self.ended |= dict.fromkeys(command.ids, (command.outcome, now_ns))
            elif isinstance(command, Dispatch):
                ids = {part.id for part in command.parts}
                if self.killer in ids:
                    self.lost |= ids - {self.killer}
                    self._takes_down(command.instance, now_ns + self._takes_ns(command) // 2)
                elif command.attempt > 1:
                    self.lost |= ids

    def answered(self) -> float:
        """The share of the lost requests, but for the killer, that was answered."""
        if not self.lost:
            return 1.0
        return sum(self.ended[i][0] is Outcome.OK for i in self.lost) / len(self.lost)

    def late_ms(self) -> list[float]:
        """What the others took that came within two seconds of the loss, in milliseconds."""
        after = range(*np.searchsorted(self.at_ns, [LOST_NS, LOST_NS + 2 * SECOND]))
        others = [i for i in after if i not in self.lost and self.ended[i][0] is Outcome.OK]
        return [(self.ended[i][1] - int(self.at_ns[i])) / 1e6 for i in others]


def lost(options: argparse.Namespace) -> dict[str, Any]:
    """Each rule, beside a killer and without."""
    found: dict[str, Any] = {}
    in_force = bisection.isqrt
    try:
        for rule, together in RULES.items():
            bisection.isqrt = together
            for load in LOADS:
                for killer in (True, False):
                    plays = [Play(load, seed, killer=killer) for seed in range(options.seeds)]
                    late = [each for play in plays for each in play.late_ms()]
                    row = {
                        "lost": sum(len(play.lost) for play in plays) / len(plays),
                        "answered": float(np.mean([play.answered() for play in plays])),
                        "others_p99_ms": float(np.percentile(late, 99)),
                    }
                    if rule == "square root":
                        row["ok"] = row["answered"] >= (LEAST_SAVED if killer else 1.0)
                    cause = "killer" if killer else "outside"
                    found[f"{rule}, {cause}, load {load:g}"] = row
    finally:
        bisection.isqrt = in_force
    return found
