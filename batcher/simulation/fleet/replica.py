"""One replica: the production scheduler with its devices, from the start of its process to its end.

It is played as late as possible: requests that are routed to it are kept until something outside needs to know
what has become of them. So replicas that do nothing cost nothing, and a busy one runs as fast as a single simulation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from batcher.clock import SECOND
from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import Event, RequestArrived
from batcher.core.policies import PolicyFactory
from batcher.core.times import NEVER_NS
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.driver import Observer
from batcher.simulation.engine.simulation import Conditions, begin, build, with_ends
from batcher.simulation.fleet.balancers import Report
from batcher.simulation.fleet.devices import BusyTimes, ReplicaDevices
from batcher.simulation.fleet.settings import Processor, Scrape, replica_seed
from batcher.simulation.fleet.signals import OBSERVED, Sample, Signal, observed
from batcher.telemetry.live.window import WINDOW_S
from batcher.telemetry.reasons import CALLER_ERRORS

Pauses: TypeAlias = tuple[tuple[int, int], ...]
"""(start, end) pairs in nanoseconds, ascending and apart."""

_ERRORS: Final = frozenset({Outcome.REJECTED, Outcome.EXPIRED, Outcome.FAILED})


@dataclass(frozen=True, slots=True)
class Kit:
    """What all replicas of a run have in common."""

    deployment: Deployment
    factory: PolicyFactory
    conditions: Conditions
    record: Observer
    client_of: Sequence[int]
    """By request."""
    clients: int
    wanted: frozenset[Signal]
    scrape: Scrape
    processor: Processor
    counts: bool
    """Whether requests that end are counted by client."""
    reports: bool
    """Whether load reports are read."""


class Replica:
    """One replica, and what the fleet knows of it."""

    __slots__ = (
        "_batches",
        "_driver",
        "_ended",
        "_errors",
        "_freezes",
        "_kit",
        "_quiet_ns",
        "_readings",
        "_recent",
        "_routed",
        "_times",
        "dead",
        "drains_ns",
        "ended_ns",
        "first_ready_ns",
        "hangs",
        "inbox",
        "known",
        "known_ns",
        "lost",
        "number",
        "outstanding",
        "ready_ns",
        "requests",
        "samples",
        "sent",
        "started_ns",
        "starts",
        "stopped_ns",
        "uid",
    )

    def __init__(
        self, kit: Kit, number: int, started_ns: int, uid: int, hangs: Pauses, freezes: Pauses
    ) -> None:
        self._kit = kit
        self.number = number
        self.uid = uid
        """Orders replicas that are equal otherwise, as the UIDs of pods do."""
        self.started_ns = started_ns
        self.starts = 0
        """How often its process was started before."""
        self.ready_ns: int | None = None
        """When it became ready; None while it starts."""
        self.first_ready_ns: int | None = None
        self.known_ns: int | None = None
        """When clients first learned that."""
        self.known = False
        """Whether clients take it for ready."""
        self.dead = False
        """Whether nothing answers at its address."""
        self.stopped_ns: int | None = None
        """When it was told to end."""
        self.drains_ns: int | None = None
        """From when on it takes nothing new."""
        self.ended_ns: int | None = None
        self.lost = 0
        """Requests that died with it."""
        self.requests = 0
        """Requests that were routed to it."""
        self.hangs = hangs
        self._freezes = freezes
        self.inbox: list[tuple[int, Event]] = []
        """Requests that it was sent, and has not taken in yet."""
        self.outstanding = [0] * kit.clients
        self.sent = [0] * kit.clients
        self.samples: dict[int, Sample | None] = {}
        """By moment, what was read, as far as a controller has not got it yet."""
        self._reset()

    def _reset(self) -> None:
        self._routed = self._batches = self._ended = self._errors = 0
        self._times: dict[str, BusyTimes] | None = None
        self._readings: deque[tuple[int, float, dict[str, int]]] = deque()
        self._recent: deque[tuple[int, int, int]] = deque(maxlen=WINDOW_S + 1)
        self._quiet_ns = NEVER_NS
        self.outstanding = [0] * len(self.outstanding)

    def begin(self, now_ns: int) -> None:
        """Its models are loaded and warm: it is ready."""
        kit = self._kit
        self._reset()
        wanted = kit.wanted
        if wanted & {Signal.DUTY_CYCLE, Signal.NVML_UTILIZATION, Signal.CPU}:
            self._times = {}
        conditions = replace(
            kit.conditions,
            seed=replica_seed(kit.conditions.seed, self.number, self.starts),
            pauses=self._freezes,
        )
        counted = kit.counts or kit.reports or Signal.CPU in wanted
        self._driver, devices = build(
            kit.deployment,
            kit.factory,
            conditions,
            self._observe if counted else kit.record,
            partial(ReplicaDevices, spells=self.hangs, times=self._times),
        )
        begin(self._driver, devices, kit.deployment, conditions, now_ns)
        self._quiet_ns = self._driver.next_ns()
        self.ready_ns, self.dead = now_ns, False
        if self.first_ready_ns is None:
            self.first_ready_ns = now_ns

    def _observe(self, now_ns: int, commands: list[Command]) -> None:
        self._kit.record(now_ns, commands)
        client_of, outstanding = self._kit.client_of, self.outstanding
        for command in commands:
            if type(command) is Settle:
                ids = command.ids
                if self._kit.counts:
                    for request_id in ids:
                        outstanding[client_of[request_id]] -= 1
                if command.reason not in CALLER_ERRORS:
                    self._ended += len(ids)
                    if command.outcome in _ERRORS:
                        self._errors += len(ids)
            elif type(command) is Dispatch:
                self._batches += 1

    def advance(self, until_ns: int) -> None:
        """Play what happens before that moment. Of a replica that is not ready nothing does."""
        inbox = self.inbox
        if not inbox and self._quiet_ns >= until_ns:
            return
        for start_ns, end_ns in self._freezes:
            if start_ns < until_ns <= end_ns:
                until_ns = start_ns
        later: list[tuple[int, Event]] = []
        if inbox and inbox[-1][0] >= until_ns:
            place = len(inbox) - 1
            while place and inbox[place - 1][0] >= until_ns:
                place -= 1
            inbox, later = inbox[:place], inbox[place:]
        self.inbox = later
        self._routed += len(inbox)
        self.requests += len(inbox)
        driver = self._driver
        if self._kit.conditions.deadline_ns is None:
            driver.run(inbox, until_ns)
        else:
            driver.run(with_ends(inbox, driver), until_ns)
        self._quiet_ns = driver.next_ns()

    @property
    def live(self) -> list[int]:
        """The ids of the requests that it has and has not ended."""
        if self.ready_ns is None:
            return []
        return [
            *self._driver.scheduler.live,
            *[e.id for _, e in self.inbox if isinstance(e, RequestArrived)],
        ]

    def die(self) -> list[int]:
        """Its process is gone now, as far as it is played; returns the requests that it had."""
        lost = self.live
        self.requests += len(self.inbox)
        self.inbox = []
        self.lost += len(lost)
        self.dead, self.ready_ns = True, None
        self._reset()
        return lost

    def frozen(self, now_ns: int) -> bool:
        """Whether it does nothing now."""
        return any(start_ns <= now_ns < end_ns for start_ns, end_ns in self._freezes)

    def scrape(self, now_ns: int, wanted: Collection[Signal]) -> Sample | None:
        """Read the wanted signals now; None where it does not answer."""
        if self.ready_ns is None or self.frozen(now_ns):
            return None
        self.advance(now_ns)
        values: dict[Signal, float] = {}
        if self._times is not None:
            self._read_counters(now_ns, wanted, values)
        if not OBSERVED.isdisjoint(wanted):
            values |= observed(self._driver.scheduler.observe(now_ns), wanted)
        return Sample(now_ns, values)

    def read_counters(self, now_ns: int) -> None:
        """Read what rates are taken from, and nothing else."""
        if self.ready_ns is not None and not self.frozen(now_ns) and self._times is not None:
            self.advance(now_ns)
            self._read_counters(now_ns, (), {})

    def _read_counters(
        self, now_ns: int, wanted: Collection[Signal], values: dict[Signal, float]
    ) -> None:
        times, scrape, processor = self._times or {}, self._kit.scrape, self._kit.processor
        period_ns = scrape.nvml_period_ns if Signal.NVML_UTILIZATION in self._kit.wanted else 0
        busy = {device: each.read(now_ns, 2 * period_ns) for device, each in times.items()}
        cpu_ns = (
            processor.baseline * now_ns
            + processor.request_ns * self._routed
            + processor.batch_ns * self._batches
            + processor.batch_share * sum(busy.values())
        )
        readings = self._readings
        while len(readings) > 1 and readings[1][0] <= now_ns - scrape.rate_ns:
            readings.popleft()
        if readings and readings[0][0] < now_ns:
            at_ns, cpu_before, busy_before = readings[0]
            if Signal.CPU in wanted:
                used = (cpu_ns - cpu_before) / (now_ns - at_ns)
                values[Signal.CPU] = used / processor.requested
            if Signal.DUTY_CYCLE in wanted:
                spent = [busy[device] - busy_before.get(device, 0) for device in busy]
                values[Signal.DUTY_CYCLE] = max(spent, default=0) / (now_ns - at_ns)
        if not readings or readings[-1][0] < now_ns:
            readings.append((now_ns, cpu_ns, busy))
        if Signal.NVML_UTILIZATION in wanted:
            ended_ns = now_ns // period_ns * period_ns
            parts = [each.part(ended_ns - period_ns, ended_ns) for each in times.values()]
            values[Signal.NVML_UTILIZATION] = max(parts, default=0.0)

    def report(self, now_ns: int) -> Report | None:
        """What a load balancer reads of its load report; None where it does not answer."""
        if self.ready_ns is None or self.frozen(now_ns):
            return None
        self.advance(now_ns)
        recent = self._recent
        if not recent or recent[-1][0] <= now_ns - SECOND:
            recent.append((now_ns, self._ended, self._errors))
        at_ns, ended, errors = recent[0]
        if at_ns == now_ns:
            return None
        seconds = (now_ns - at_ns) / SECOND
        ratio = self._driver.scheduler.observe(now_ns).desired_ratio
        return Report((self._ended - ended) / seconds, (self._errors - errors) / seconds, ratio)

    def finish(self) -> None:
        """Play it to the end of everything."""
        if self.ready_ns is not None:
            self.advance(NEVER_NS)

    def drain(self, now_ns: int, until_ns: int) -> int | None:
        """Play it until it has ended everything; returns when that is, None if it has not before `until_ns`."""
        self.advance(now_ns)
        ended_ns = now_ns
        while self.live:
            next_ns = max(self._quiet_ns, now_ns)
            if self.inbox:
                next_ns = min(next_ns, max(self.inbox[0][0], now_ns))
            for start_ns, end_ns in self._freezes:
                if start_ns <= next_ns < end_ns:
                    next_ns = end_ns
            if next_ns >= until_ns:
                return None
            self.advance(next_ns + 1)
            ended_ns = next_ns
        return ended_ns
