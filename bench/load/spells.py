"""When the machine itself was slow, measured by a probe that is independent of server and load.

On a shared machine a core may run everything five to twenty times slower for some 50 ms, a few
times a second: another process on the physical core evicts everything from its nearest caches.
The host takes no time away then, so that `machine.Steal` shows nothing.

A process on each core reads 32 KiB that it has just read every few milliseconds, and notes the
processor time that takes; waiting for its turn on the core does not count. Its readings are the
same whatever the server does, so that leaving out requests because of them favors no server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import machine
import numpy as np
from numpy.typing import NDArray

from batcher.clock import MILLISECOND, SECOND

Spell: TypeAlias = tuple[int, int]
"""Its beginning and its end, of the monotonic clock, in nanoseconds."""

INTERVAL_S = 0.004
VALUES = 4096
"""8 bytes each: they fill a core's first-level cache, or most of it."""

USUAL = 25
"""The percentile of a core's readings that is its usual one: it may be slow for most of a run."""

SLOW = 4.0
"""A reading that takes so many times the usual is part of a spell."""

TOGETHER_NS = 60 * MILLISECOND
"""Slow readings no further apart than this are one spell."""

NEXT_NS = 12 * MILLISECOND
"""Slow readings no further apart than this, three of the probe's intervals, are one stall: the core
is taken to have been slow from one to the other, though a reading between was not."""

STANDS_STILL = 0.8
"""A slow core is taken to do nothing for this part of each of the probe's intervals. Servers and load are
not slowed as much as the probe, which does nothing but read memory."""


class Spells:
    """Records when the cores are slow while it is entered; the results are there after its end."""

    def __init__(self, cores: Mapping[str, int]) -> None:
        self._cores = cores
        self._probes: dict[str, subprocess.Popen[str]] = {}
        self._began_ns = 0
        self.found: list[Spell] = []
        """Spells of any of the cores, in order, none touching another."""
        self._stalls: dict[str, list[Spell]] = {}
        self.shares: dict[str, float] = {}
        """What part of the time each core was slow, by the cores' names."""

    def __enter__(self) -> Self:
        for name, core in self._cores.items():
            command = [sys.executable, __file__, str(core)]
            self._probes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        outputs = [probe.stdout for probe in self._probes.values()]
        if not all(output is not None and output.readline() for output in outputs):
            self._end()
            raise RuntimeError("a probe of a core did not start")
        self._began_ns = time.monotonic_ns()
        return self

    def __exit__(self, *exception: object) -> None:
        ended_ns = time.monotonic_ns()
        told = self._end()
        if any(exception):
            return
        found: list[Spell] = []
        for name, text in told.items():
            readings = json.loads(text)
            spells = spells_in(readings)
            slow_ns = sum(end - begin for begin, end in spells)
            self.shares[name] = round(slow_ns / (ended_ns - self._began_ns), 4)
            self._stalls[name] = spells_in(readings, NEXT_NS)
            found += spells
        self.found = united(found)

    def calm(self, began_ns: int, due_ns: list[int], target_ns: int) -> NDArray[np.bool_]:
        """Which requests, due so long after a beginning, no spell has touched.

        They are due a target before it, so that they should be answered by then, or two targets
        after it: by then a scheduler is to have recovered from an overload.
        """
        at = began_ns + np.array(due_ns, np.int64)
        calm = np.ones(len(at), np.bool_)
        for begin, end in self.found:
            calm &= (at < begin - target_ns) | (at > end + 2 * target_ns)
        return calm

    def stalls(self, began_ns: int, *cores: str) -> list[Spell]:
        """When any of these cores is taken to have done nothing, in nanoseconds after a beginning.

        Each stretch of slow readings counts from half an interval before the first to half an
        interval after the last.
        """
        every_ns = round(INTERVAL_S * SECOND)
        still_ns = round(STANDS_STILL * every_ns)
        found: list[Spell] = []
        for begin, end in (spell for core in cores for spell in self._stalls[core]):
            since_ns, until_ns = begin - began_ns - every_ns // 2, end - began_ns + every_ns // 2
            pieces = max(1, round((until_ns - since_ns) / every_ns))
            starts = [since_ns + piece * every_ns for piece in range(pieces)]
            found += [(max(0, at), at + still_ns) for at in starts if at + still_ns > 0]
        return united(found, 0)

    def _end(self) -> dict[str, str]:
        for probe in self._probes.values():
            probe.terminate()
        return {name: probe.communicate()[0] for name, probe in self._probes.items()}


def spells_in(readings: Sequence[tuple[int, int]], together_ns: int = TOGETHER_NS) -> list[Spell]:
    """The spells in one core's readings: when each began, and the nanoseconds that it took."""
    if not readings:
        return []
    slow = SLOW * float(np.percentile([took for _, took in readings], USUAL))
    return united(((at, at + took) for at, took in readings if took > slow), together_ns)


def united(spells: Iterable[Spell], together_ns: int = TOGETHER_NS) -> list[Spell]:
    """In order, and those that are close to each other as one."""
    found: list[Spell] = []
    for begin, end in sorted(spells):
        if found and begin <= found[-1][1] + together_ns:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def probe(core: int) -> None:
    """Read until a signal comes, then print the readings; end as well when the parent has ended."""
    stopped = False

    def stop(*_signal_and_frame: Any) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.stay_on(core)
    parent = os.getppid()
    values = np.arange(VALUES)
    order = np.random.default_rng(0).permutation(VALUES)
    into = np.empty_like(values)
    readings: list[tuple[int, int]] = []
    print("ready", flush=True)
    while not stopped and os.getppid() == parent:
        time.sleep(INTERVAL_S)
        values.take(order, out=into, mode="clip")  # It is in the cache, whatever ran before.
        at_ns, began_ns = time.monotonic_ns(), time.thread_time_ns()
        values.take(order, out=into, mode="clip")
        values.take(order, out=into, mode="clip")
        readings.append((at_ns, time.thread_time_ns() - began_ns))
    if stopped:
        print(json.dumps(readings))


if __name__ == "__main__":
    probe(int(sys.argv[1]))
