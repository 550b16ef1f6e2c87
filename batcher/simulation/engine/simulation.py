"""Runs requests through a deployment under one policy and keeps the outcome of each.

Arrivals, mixes, noise and timer delays draw from generators of their own, seeded by one number, so that
two policies meet the same requests and the same devices.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batcher.clock import MILLISECOND
from batcher.core.commands import (
    Command,
    Dispatch,
    Outcome,
    PolicyFailed,
    Reason,
    SettingsRefused,
    Settle,
)
from batcher.core.events import CancelCause, Event, RequestArrived, RequestCancelled
from batcher.core.policies import PolicyFactory
from batcher.core.scheduler import Scheduler
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.driver import Driver, Observer
from batcher.simulation.engine.prefetch import PrefetchDriver
from batcher.simulation.engine.service_time import Devices, DeviceUse, Slowdown, TimerDelay
from batcher.simulation.policies.named import NamedPolicy
from batcher.simulation.traffic.workload import Progress, Workload

OUTCOMES: Final = tuple(Outcome)
REASONS: Final = tuple(Reason)
UNSETTLED: Final = -1
"""The outcome of a request that was never settled: a bug of the scheduler's."""

_OUTCOME_CODES: Final = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_REASON_CODES: Final = {reason: code for code, reason in enumerate(REASONS)}
_SHORTEST_RETRY_NS: Final = MILLISECOND
"""After this a caller comes back that was refused without a time to wait."""


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of random numbers for one purpose; streams of one seed are independent."""
    return np.random.default_rng([seed, *purpose.encode()])


@dataclass(frozen=True, slots=True)
class Conditions:
    """Circumstances of a run: slow devices, late timers, deadlines of callers, a cold start."""

    seed: int = 0
    slowdowns: tuple[Slowdown, ...] = ()
    timer_delay: TimerDelay | None = None
    deadline_ns: int | None = None
    """How long a caller waits; then it cancels its request, whether or not that runs."""
    cold: bool = False
    """Whether instances come up without having measured anything."""
    reply_ns: int = 0
    """Time between two answers of a batch."""
    batch_gap_ns: int = 0
    """What a batch takes beyond its execution on an instance that is idle: see `prefetch`."""
    pauses: tuple[tuple[int, int], ...] = ()
    """(start, end) pairs in order of time in which the server does nothing: see `driver`."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Callers that send a request, wait for its end, pause for `think_ns`, and send the next.

    They send the requests of `workload` in order (its times are not read), until there are none
    left or `until_ns` has come. A refused caller also waits for the time in the refusal.
    """

    callers: int
    workload: Workload
    think_ns: int = 0
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The outcome of every request, and what the devices did. Index n of each array is request n."""

    policy: str
    deployment: Deployment
    workload: Workload
    settled_ns: NDArray[np.int64]
    outcome: NDArray[np.int8]
    """An index of `OUTCOMES`, or `UNSETTLED`."""
    reason: NDArray[np.int8]
    """An index of `REASONS`."""
    batch_rows: NDArray[np.int64]
    """Rows of the last batch that the request ran in, 0 if it never ran."""
    batches: NDArray[np.int64]
    """Rows of every batch, in order of dispatch."""
    busy_ns: dict[str, int]
    """By device, the sum of its batches' times."""
    ended_ns: int
    """When the last event happened."""
    errors: tuple[str, ...]
    """Policies that broke their contract."""
    failed_batches: int = 0
    """Batches that failed as a whole though none of their requests made them fail."""
    due_ns: NDArray[np.int64] | None = None
    """When each request should be answered; None: as its model's target says."""


class Recorder:
    """Keeps commands in flat arrays, which costs next to nothing per request during a run."""

    def __init__(self, reply_ns: int = 0) -> None:
        self.errors: list[str] = []
        self._reply_ns = reply_ns
        self._settled = array("q")
        self._settle_of = (array("q"), array("q"), array("b"), array("b"))
        self._dispatched = array("q")
        self._dispatch_of = (array("q"), array("q"))

    def __call__(self, now_ns: int, commands: list[Command]) -> None:
        """Record the scheduler's commands."""
        for command in commands:
            if type(command) is Settle:
                ids = command.ids
                self._settled.extend(ids)
                counts, times, outcomes, reasons = self._settle_of
                counts.append(len(ids))
                times.append(now_ns)
                outcomes.append(_OUTCOME_CODES[command.outcome])
                reasons.append(_REASON_CODES[command.reason])
            elif type(command) is Dispatch:
                parts = command.parts
                self._dispatched.extend([part.id for part in parts])
                counts, sizes = self._dispatch_of
                counts.append(len(parts))
                sizes.append(sum([part.stop - part.start for part in parts]))
            elif type(command) is PolicyFailed or type(command) is SettingsRefused:
                self.errors.append(f"{command.model}: {command.error}")

    def run(
        self,
        policy: str,
        deployment: Deployment,
        workload: Workload,
        use: Mapping[str, DeviceUse],
        end_ns: int,
        known: NDArray[np.int64] | None = None,
        counted: NDArray[np.bool_] | None = None,
    ) -> Run:
        """All that was recorded, request by request.

        `known` holds the requests' ids, ascending; without it request n has id n. `counted` says
        of each request whether a batch that it leads is one of the run's; without it all are.
        """
        requests = len(workload)
        ids = _places(self._settled, known)
        counts, times, outcomes, reasons = (np.array(a) for a in self._settle_of)
        settled_ns = np.zeros(requests, np.int64)
        outcome = np.full(requests, UNSETTLED, np.int8)
        reason = np.zeros(requests, np.int8)
        settled_ns[ids] = np.repeat(times, counts)
        if self._reply_ns:
            answered = np.repeat(outcomes == _OUTCOME_CODES[Outcome.OK], counts)
            places = np.arange(1, len(ids) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
            settled_ns[ids] += answered * places * self._reply_ns
        outcome[ids] = np.repeat(outcomes, counts)
        reason[ids] = np.repeat(reasons, counts)
        batch_rows = np.zeros(requests, np.int64)
        counts, sizes = (np.array(a, np.int64) for a in self._dispatch_of)
        dispatched = _places(self._dispatched, known)
        batch_rows[dispatched] = np.repeat(sizes, counts)
        leaders = dispatched[np.cumsum(counts) - counts]
        return Run(
            policy=policy,
            deployment=deployment,
            workload=workload,
            settled_ns=settled_ns,
            outcome=outcome,
            reason=reason,
            batch_rows=batch_rows,
            batches=sizes if counted is None else sizes[counted[leaders]],
            busy_ns={device: used.busy_ns for device, used in use.items()},
            ended_ns=end_ns,
            errors=tuple(self.errors),
        )


def _places(ids: array[int], known: NDArray[np.int64] | None) -> NDArray[np.int64]:
    found = np.array(ids, np.int64)
    return found if known is None else np.searchsorted(known, found)


def simulate(
    deployment: Deployment,
    policy: NamedPolicy,
    load: Workload | ClosedLoop,
    conditions: Conditions | None = None,
    progress: Progress | None = None,
) -> Run:
    """Play the requests to their end. Equal arguments give equal runs."""
    conditions = conditions or Conditions()
    deployment = deployment.under(policy)
    recorder = Recorder(conditions.reply_ns)
    callers: _Callers | None = None
    if isinstance(load, ClosedLoop):
        callers = _Callers(load, recorder, conditions, progress)
    driver, devices = build(deployment, policy.factory, conditions, callers or recorder)
    begin(driver, devices, deployment, conditions)
    if callers is not None:
        callers.begin(driver)
        driver.run(())
        workload = callers.sent()
        if progress is not None:
            progress(len(workload))
    elif isinstance(load, Workload):
        workload = load
        arrivals = load.events(deadline_ns=conditions.deadline_ns, progress=progress)
        driver.run(arrivals if conditions.deadline_ns is None else with_ends(arrivals, driver))
    return recorder.run(policy.name, deployment, workload, devices.use, driver.scheduler.now_ns)


def build(
    deployment: Deployment,
    factory: PolicyFactory,
    conditions: Conditions,
    observe: Observer,
    devices_type: Callable[..., Devices] = Devices,
) -> tuple[Driver, Devices]:
    """A server that has no models yet: the driver of its scheduler, and its devices."""
    scheduler = Scheduler(factory)
    devices = _devices(deployment, conditions, lambda: scheduler.now_ns, devices_type)
    timer_delay = conditions.timer_delay
    late_ns = None if timer_delay is None else timer_delay.draws(generator(conditions.seed, "late"))
    driver: Driver
    if conditions.batch_gap_ns or devices.copies:
        driver = PrefetchDriver(
            scheduler,
            devices.run,
            conditions.batch_gap_ns,
            observe=observe,
            timer_delay=late_ns,
            reply_ns=conditions.reply_ns,
            pauses=conditions.pauses,
            copy_ns=devices.copy_ns,
        )
    else:
        driver = Driver(
            scheduler,
            devices,
            observe=observe,
            timer_delay=late_ns,
            reply_ns=conditions.reply_ns,
            pauses=conditions.pauses,
        )
    return driver, devices


def begin(
    driver: Driver,
    devices: Devices,
    deployment: Deployment,
    conditions: Conditions,
    now_ns: int = 0,
) -> None:
    """Have the models of the deployment loaded and warm now."""
    measured = None if conditions.cold else devices
    driver.step(list(deployment.events(measured, conditions.batch_gap_ns)), now_ns)


def _devices(
    deployment: Deployment,
    conditions: Conditions,
    clock: Callable[[], int],
    devices_type: Callable[..., Devices],
) -> Devices:
    return devices_type(
        curves={m.name: m.curve for m in deployment.models},
        device_of={
            name: m.device for m in deployment.models for name in deployment.instance_names(m)
        },
        exclusive=deployment.exclusive,
        noise={m.name: m.noise for m in deployment.models},
        slowdowns=conditions.slowdowns,
        draw=generator(conditions.seed, "noise"),
        clock=clock,
        buckets={m.name: m.buckets for m in deployment.models if m.buckets},
        copies={m.name: m.copies for m in deployment.models if m.copies},
    )


def with_ends(arrivals: Iterable[tuple[int, Event]], driver: Driver) -> Iterator[tuple[int, Event]]:
    """The same arrivals, each with its caller's deadline posted."""
    for at_ns, event in arrivals:
        if isinstance(event, RequestArrived):
            _post_end(event, driver)
        yield at_ns, event


def _post_end(arrived: RequestArrived, driver: Driver) -> None:
    """Post that the caller leaves after its deadline; an answer at the deadline still reaches it."""
    if arrived.deadline_ns is not None:
        left = RequestCancelled(arrived.id, CancelCause.DEADLINE)
        driver.post(arrived.deadline_ns + 1, left)


class _Callers:
    """The closed loop: each request that ends lets its caller send the next one."""

    def __init__(
        self,
        loop: ClosedLoop,
        record: Recorder,
        conditions: Conditions,
        progress: Progress | None,
    ) -> None:
        self._loop = loop
        self._record = record
        self._deadline_ns = conditions.deadline_ns
        self._reply_ns = conditions.reply_ns
        self._progress = progress
        self._rows = loop.workload.rows.tolist()
        self._kinds = [loop.workload.kinds[kind] for kind in loop.workload.kind.tolist()]
        self._sent_ns: list[int] = []
        self._driver: Driver | None = None

    def begin(self, driver: Driver) -> None:
        """Send the first request of every caller, all at once."""
        self._driver = driver
        for _ in range(self._loop.callers):
            self._send(0)

    def sent(self) -> Workload:
        """The requests that were sent, with their times, in the order in which callers decided."""
        count = len(self._sent_ns)
        given = self._loop.workload
        at_ns = np.array(self._sent_ns, np.int64)
        return replace(given, at_ns=at_ns, rows=given.rows[:count], kind=given.kind[:count])

    def __call__(self, now_ns: int, commands: list[Command]) -> None:
        """Record the commands, and let each caller whose request ended send its next one."""
        self._record(now_ns, commands)
        for command in commands:
            if type(command) is Settle:
                wait_ns, each_ns = self._loop.think_ns, self._reply_ns
                if command.outcome is not Outcome.OK:
                    wait_ns += command.retry_after_ns or _SHORTEST_RETRY_NS
                    each_ns = 0
                for place, _ in enumerate(command.ids, 1):
                    self._send(now_ns + place * each_ns + wait_ns)

    def _send(self, at_ns: int) -> None:
        request_id = len(self._sent_ns)
        until_ns = self._loop.until_ns
        if request_id >= len(self._rows) or (until_ns is not None and at_ns > until_ns):
            return
        if self._progress is not None and request_id % 1024 == 0:
            self._progress(request_id)
        self._sent_ns.append(at_ns)
        kind = self._kinds[request_id]
        expires_ns = None if self._deadline_ns is None else at_ns + self._deadline_ns
        arrived = RequestArrived(
            request_id,
            kind.model,
            self._rows[request_id],
            0,
            (),
            "",
            at_ns,
            deadline_ns=expires_ns,
            priority=kind.priority,
            tenant=kind.tenant,
        )
        if self._driver is not None:
            self._driver.post(at_ns, arrived)
            _post_end(arrived, self._driver)
