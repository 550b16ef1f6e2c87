"""One round of the load: requests at random moments, whether or not the server keeps up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from callers import Caller, caller
from poisson import Pacer, arrivals_ns, percentiles
from questions import Protocol

from batcher.clock import MILLISECOND, SECOND

ON_TIME_NS = 50 * MILLISECOND
"""An answer this long after its request was due is in time."""

SHARE = 0.99
"""So many must be in time for a rate to hold."""

LOST = 0.05
"""A round ends early once so many of its requests have missed: five times what it may miss, and more
than a core makes late that stands still for 100 ms in a round of 3 s."""

SETTLE_S = 0.4
"""The first requests of a round are not counted: queues start empty."""

PATIENCE_S = 1.0
"""How long after the last request was due an answer is waited for; what comes later never came."""


@dataclass(slots=True)
class Round:
    """How the counted requests of one round ended."""

    rate: float
    requests: int
    on_time: int
    late: int
    failed: Counter[str]
    latency_ms: dict[str, float]
    sent_late_ms: dict[str, float]
    load_busy: float
    """The share of its core that the load used."""
    server_us: float
    """Processor time of all the server's processes for a request, in microseconds."""
    seconds: float
    stopped: bool = False
    """Ended early: clearly lost already."""

    @classmethod
    def lost(cls, rate: float, why: str) -> Round:
        """One in which nothing was answered."""
        return cls(rate, 1, 0, 0, Counter([why]), {}, {}, 0.0, 0.0, 0.0, stopped=True)

    @property
    def share(self) -> float:
        """The part that was answered right and in time."""
        return self.on_time / max(self.requests, 1)

    @property
    def holds(self) -> bool:
        """Whether 99 % were in time."""
        return not self.stopped and self.requests > 0 and self.share >= SHARE

    @property
    def in_time_a_second(self) -> float:
        """Right answers in time a second."""
        return self.rate * self.share

    def kept(self) -> dict[str, Any]:
        """For the file of results."""
        return {
            "rate": round(self.rate, 1),
            "requests": self.requests,
            "on_time_share": round(self.share, 5),
            "in_time_a_second": round(self.in_time_a_second, 1),
            "late": self.late,
            "failed": dict(self.failed.most_common()),
            "latency_ms": self.latency_ms,
            "sent_late_ms": self.sent_late_ms,
            "load_busy": round(self.load_busy, 3),
            "server_us_a_request": round(self.server_us, 1),
            "stopped_early": self.stopped,
        }


@dataclass(slots=True)
class _Record:
    """How each request ended, by its place."""

    due_ns: list[int]
    counted_from: int
    allowed: int
    """So many counted requests may miss before the round is ended."""
    latency_ns: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    left: int = 0
    missed: int = 0
    start_ns: int = 0
    over: bool = False
    """What ends from now on, because connections are closed, had no answer."""
    nothing_left: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, place: int, now_ns: int, failure: str) -> None:
        """One request has ended."""
        if self.over:
            return
        latency_ns = now_ns - self.start_ns - self.due_ns[place]
        if failure:
            self.failed[place] = failure
        else:
            self.latency_ns[place] = latency_ns
        if (failure or latency_ns > ON_TIME_NS) and place >= self.counted_from:
            self.missed += 1
        self.left -= 1
        if not self.left:
            self.nothing_left.set()


async def play(
    address: tuple[str, int],
    protocol: Protocol,
    rate: float,
    seconds: float,
    *,
    seed: int,
    stop_early: bool,
    server_cpu: Callable[[], float],
) -> Round:
    """Offer that rate for so long, on connections of its own.

    With `stop_early` the round ends as soon as it is clearly lost. Raises OSError where nothing
    listens.
    """
    due_ns = arrivals_ns(rate, SETTLE_S + seconds, seed)
    counted_from = sum(at < SETTLE_S * SECOND for at in due_ns)
    allowed = int((len(due_ns) - counted_from) * LOST)
    record = _Record(due_ns, counted_from, allowed)
    load = caller(address, protocol, record.settle)
    questions = protocol.questions(len(due_ns), seed)
    await load.open()
    try:
        used, load_used = server_cpu(), time.process_time()
        sent_late = await _send(load, record, questions, stop_early=stop_early)
        stopped = len(sent_late) < len(due_ns)
        if record.left and not stopped:
            record.nothing_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(record.nothing_left.wait(), PATIENCE_S)
        took_s = (time.monotonic_ns() - record.start_ns) / SECOND
        used, load_used = server_cpu() - used, time.process_time() - load_used
    finally:
        record.over = True
        await load.close()
    return _round(record, sent_late, rate, took_s, used, load_used, stopped=stopped)


async def _send(
    load: Caller, record: _Record, questions: list[Any], *, stop_early: bool
) -> list[int]:
    """How late each request was sent; fewer than there are where the round was lost early."""
    pacer = Pacer()
    sent_late: list[int] = []
    start_ns = record.start_ns = time.monotonic_ns() + 50 * MILLISECOND
    try:
        for place, offset_ns in enumerate(record.due_ns):
            at_ns = start_ns + offset_ns
            if at_ns > time.monotonic_ns():
                await pacer.until(at_ns)
            elif not place % 16:
                await asyncio.sleep(0)  # a load that is behind still reads its answers
            if stop_early and record.missed > record.allowed:
                break
            sent_late.append(time.monotonic_ns() - at_ns)
            record.left += 1
            load.send(place, at_ns, questions[place])
    finally:
        pacer.close()
    return sent_late


def _round(
    record: _Record,
    sent_late: list[int],
    rate: float,
    took_s: float,
    used: float,
    load_used: float,
    *,
    stopped: bool,
) -> Round:
    counted = range(record.counted_from, len(sent_late))
    latency = np.array([record.latency_ns[each] for each in counted if each in record.latency_ns])
    failed = Counter(record.failed[each] for each in counted if each in record.failed)
    on_time = int(np.count_nonzero(latency <= ON_TIME_NS))
    silent = len(counted) - len(latency) - failed.total()
    if silent:
        failed["no answer"] = silent
    return Round(
        rate=rate,
        requests=len(counted),
        on_time=on_time,
        late=len(latency) - on_time,
        failed=failed,
        latency_ms=percentiles(latency / MILLISECOND),
        sent_late_ms=percentiles(np.array(sent_late[record.counted_from :]) / MILLISECOND),
        load_busy=load_used / max(took_s, 1e-9),
        server_us=used / max(len(sent_late), 1) * 1e6,
        seconds=took_s,
        stopped=stopped,
    )
