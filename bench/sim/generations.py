"""A hundred loads of the model that is served, half of them broken, at 70 % load.

A broken load costs the device nothing. The warm-up of the others takes turns with the batches that answer,
as `runtime/instances/turns.py` says: it waits until the device is idle, has it for one batch, and leaves it
to others for a while. Then another generation gets the new requests, and the old one drains.
"""

from __future__ import annotations

import argparse
import heapq
from typing import Any

import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.config import BatchingConfig
from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import (
    BatchProgress,
    DeviceConfigured,
    Event,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
    Timings,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings, QueueLimits
from batcher.runtime.instances.turns import SHARE

ROWS = (1, 2, 4, 8, 16, 32)
LOADS = 50
"""Of a hundred, those that are not broken."""
EACH_NS = 8 * SECOND
"""From the begin of one of them to that of the next."""
DRAINED_NS = SECOND
LOAD = 0.7
MOST = 1.2

_WARM = -1


def cost_ns(rows: int) -> int:
    """What a batch takes."""
    return 5 * MILLISECOND + rows * MILLISECOND // 2


CAPACITY = ROWS[-1] / cost_ns(ROWS[-1]) * SECOND


class Served:
    """One device with one instance of each generation, in virtual time."""

    def __init__(self, arrivals_ns: list[int]) -> None:
        self.scheduler = Scheduler()
        self.arrivals_ns = arrivals_ns
        self.latency_ns: list[int] = []
        self.refused = self.loads = 0
        self.serving = ""
        self._settings = ModelSettings(
            ROWS[-1],
            BatchingConfig(target_p99="50ms").policy_settings(),
            QueueLimits(),
            target_ns=50 * MILLISECOND,
        )
        self._due: list[tuple[int, int, str, tuple[Any, ...]]] = []
        self._numbers = 0
        self._waiting: list[tuple[int, tuple[int, ...], int]] = []
        self._runs = False
        self._warm: list[int] = []
        self._turn = 0
        self._feed([DeviceConfigured("gpu", 1)], 0)
        self._serve(0)

    def at(self, now_ns: int, what: str, *arguments: Any) -> None:
        """Do something then."""
        self._numbers += 1
        heapq.heappush(self._due, (now_ns, self._numbers, what, arguments))

    def play(self) -> None:
        """Until the last request has arrived, and two seconds more."""
        place, end_ns = 0, self.arrivals_ns[-1] + 2 * SECOND
        while True:
            arrives_ns = self.arrivals_ns[place] if place < len(self.arrivals_ns) else end_ns
            wake_ns = self.scheduler.next_wakeup_ns() or end_ns
            due_ns = self._due[0][0] if self._due else end_ns
            now_ns = min(arrives_ns, wake_ns, due_ns)
            if now_ns >= end_ns:
                return
            if now_ns == arrives_ns:
                place += 1
                event = RequestArrived(place, self.serving, 1, 64, ((),), "", now_ns)
                self._feed([event], now_ns)
            elif now_ns == due_ns:
                _, _, what, arguments = heapq.heappop(self._due)
                getattr(self, f"_{what}")(now_ns, *arguments)
            else:
                self._feed([], now_ns)

    def _feed(self, events: list[Event], now_ns: int) -> None:
        self._carry_out(self.scheduler.handle(events, now_ns), now_ns)

    def _carry_out(self, commands: list[Command], now_ns: int) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                ids = tuple(part.id for part in command.parts)
                self._waiting.append((command.batch_id, ids, len(ids)))
                self._next(now_ns)
            elif isinstance(command, Settle) and command.outcome is Outcome.OK:
                self.latency_ns += [now_ns - self.arrivals_ns[each - 1] for each in command.ids]
            elif isinstance(command, Settle):
                self.refused += len(command.ids)

    def _next(self, now_ns: int) -> None:
        if not self._runs and self._waiting:
            batch, ids, rows = self._waiting.pop(0)
            self._runs = True
            self.at(now_ns + cost_ns(rows), "ended", batch, ids, now_ns)

    def _ended(self, now_ns: int, batch: int, ids: tuple[int, ...], began_ns: int) -> None:
        self._runs = False
        if batch == _WARM:
            self.at(now_ns + round((now_ns - began_ns) * (1 / SHARE - 1)), "warmed")
            self._feed([DeviceConfigured("gpu", 1)], now_ns)
        else:
            self._next(now_ns)
            timings = Timings(began_ns, began_ns, now_ns, now_ns)
            self._feed([BatchProgress(batch, ids, timings=timings)], now_ns)
        self._take_turn(now_ns)

    def _take_turn(self, now_ns: int) -> None:
        """Run the warm-up batch that waits, once the device is idle."""
        if self._turn and not self._runs and not self._waiting:
            rows, self._turn = self._turn, 0
            self._waiting.append((_WARM, (), rows))
            self._next(now_ns)
            self._feed([DeviceConfigured("gpu", 0)], now_ns)

    def _load(self, now_ns: int) -> None:
        self._warm = [rows for rows in ROWS for _ in range(2)]
        self._warmed(now_ns)

    def _warmed(self, now_ns: int) -> None:
        if self._warm:
            self._turn = self._warm.pop(0)
            self._take_turn(now_ns)
        else:
            self._serve(now_ns)

    def _serve(self, now_ns: int) -> None:
        before = self.serving
        self.loads += bool(before)
        self.serving = f"m/1~{self.loads + 1}"
        profile = tuple((rows, cost_ns(rows)) for rows in ROWS)
        up = InstanceUp(f"{self.serving}#0", 1, self.serving, "gpu", 1, profile, (), True)
        self._feed([ModelConfigured(self.serving, self._settings), up], now_ns)
        if before:
            self.at(now_ns + DRAINED_NS, "gone", before)

    def _gone(self, now_ns: int, before: str) -> None:
        self._feed([ModelRemoved(before), InstanceDown(f"{before}#0", 1)], now_ns)


def reloads(options: argparse.Namespace) -> dict[str, Any]:
    """The same arrivals with loads and without."""
    found: dict[str, Any] = {}
    seconds = LOADS * EACH_NS / SECOND
    for seed in range(options.seeds):
        arrivals_ns = world.poisson(LOAD * CAPACITY, seconds, seed)
        p99_ms = {}
        for loads in (0, LOADS):
            served = Served(arrivals_ns)
            for number in range(loads):
                served.at(number * EACH_NS + SECOND, "load")
            served.play()
            p99_ms[loads] = float(np.percentile(served.latency_ns, 99)) / MILLISECOND
            row = {
                "loads": served.loads,
                "requests": len(arrivals_ns),
                "answered": len(served.latency_ns),
                "refused": served.refused,
                "p50_ms": float(np.percentile(served.latency_ns, 50)) / MILLISECOND,
                "p99_ms": p99_ms[loads],
            }
            if loads:
                row["ratio"] = p99_ms[loads] / p99_ms[0]
                row["ok"] = (
                    row["ratio"] <= MOST
                    and served.loads == loads
                    and row["answered"] == len(arrivals_ns)
                )
            found[f"{2 * loads or 'no'} loads, seed {seed}"] = row
    return found
