"""What a recorded stretch would have been like under other settings.

The production scheduler starts from the recorded state and gets the recorded causes again, under
virtual time; service times are drawn from those that were learned. A run under the recorded settings
is reported as well: how far it is from the recording shows how far the other runs can be trusted.
Arrivals are an open stream: callers send what they sent, whatever answers they get.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batcher.core.batch_sizes import filled_rows
from batcher.core.commands import Dispatch
from batcher.core.events import (
    BatchProgress,
    Event,
    Failure,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    RepliesTook,
    Timings,
)
from batcher.core.policies import PolicyFactory, make_policy
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings
from batcher.core.state import State
from batcher.core.times import NEVER_NS
from batcher.errors import InputError, describe
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.driver import Driver, Observer
from batcher.simulation.engine.service_time import Curve, DeviceUse, from_table, stepped
from batcher.simulation.engine.simulation import Recorder, Run, generator
from batcher.simulation.logs.generations import model_of
from batcher.simulation.logs.learned import Learned, Sample, uniform
from batcher.simulation.logs.stretch import Stretch
from batcher.simulation.traffic.workload import Kind, Mix, Traffic, Workload

RECORDED: Final = "recorded"
REPLAYED: Final = "replayed"
"""The recorded settings under virtual time."""

MOST_KINDS: Final = 32
"""The most kinds of requests in a report; with more, they are reported by model alone."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings to try: from a model's name in events and its settings to those it is to have."""

    name: str
    settings: Callable[[str, ModelSettings], ModelSettings] = lambda _model, settings: settings
    factory: PolicyFactory = make_policy


class WhatIf:
    """Runs of one stretch. `models` are those whose requests are reported on, of all their generations; None is all."""

    def __init__(self, stretch: Stretch, learned: Learned, models: frozenset[str] | None) -> None:
        self._stretch = stretch
        self._learned = learned
        self._models = models
        self._requests = _Requests(stretch, models)

    @property
    def requests(self) -> int:
        """How many requests are reported on. `recorded` and `play` need at least one."""
        return len(self._requests.reported)

    def recorded(self) -> Run:
        """The run as it was recorded."""
        stretch = self._stretch
        run = stretch.commands.run(
            RECORDED,
            self._deployment(stretch.settings),
            self._requests.workload,
            stretch.use,
            stretch.ended_ns - stretch.begins_ns,
            self._requests.ids,
            self._requests.of_models,
        )
        run = replace(run, failed_batches=self._failed(stretch.failed_batches))
        return self._requests.chosen(run, stretch.settings)

    def play(self, variant: Variant, seed: int) -> Run:
        """Play the stretch under these settings.

        Raises `InputError` where a time is not known, or the scheduler cannot begin from the stretch.
        """
        stretch = self._stretch
        begins_ns = stretch.begins_ns
        settings = {
            model: variant.settings(model, recorded) for model, recorded in stretch.settings.items()
        }
        scheduler = _restored(_one_by_one(stretch.state), variant.factory)
        devices = _Devices(stretch, self._learned, generator(seed, "noise"), scheduler)
        recorder = Recorder()
        driver = _Replaying(
            scheduler,
            devices,
            lambda now_ns, commands: recorder(now_ns - begins_ns, commands),
            _timer_delay(self._learned.late_ns, generator(seed, "late")),
        )
        changed: list[Event] = []
        for state in stretch.state.models:
            wanted = variant.settings(state.model, state.settings)
            if wanted != state.settings or variant.factory is not make_policy:
                changed.append(ModelConfigured(state.model, wanted))
        if changed:
            driver.step(changed, begins_ns)
        driver.run(_causes(stretch, variant))
        run = recorder.run(
            variant.name,
            self._deployment(settings),
            self._requests.workload,
            devices.use,
            scheduler.now_ns - begins_ns,
            self._requests.ids,
            self._requests.of_models,
        )
        run = replace(run, failed_batches=self._failed(devices.failed_batches))
        return self._requests.chosen(run, settings)

    def _failed(self, batches: Counter[str]) -> int:
        """How many of these are of models that are reported on."""
        return sum(
            n
            for model, n in batches.items()
            if self._models is None or model_of(model) in self._models
        )

    @property
    def traffic(self) -> Traffic:
        """The mixes of the reported requests, as far as capacity depends on them."""
        requests = self._requests
        models = Counter(request.model for request in requests.reported)
        rows = Counter(request.rows for request in requests.reported)
        return Traffic(
            Mix.of(*((model, float(count)) for model, count in models.items())),
            Mix.of(*((size, float(count)) for size, count in rows.items())),
        )

    def capacity(self) -> float:
        """The most requests a second of this traffic, as `batcher simulate` counts it."""
        return self._deployment(self._stretch.settings).capacity(self.traffic)

    def _deployment(self, settings: dict[str, ModelSettings]) -> Deployment:
        """The deployment, as far as a report needs it."""
        stretch = self._stretch
        asked = {request.model for request in self._requests.every}
        models = []
        for name in sorted(asked):
            mine = [up for up in stretch.instances.values() if up.model == name]
            if name in settings:
                first = mine[0] if mine else None
                models.append(
                    SimulatedModel(
                        name,
                        settings[name],
                        stepped(
                            _curve(self._learned, name, settings[name].max_batch_size),
                            settings[name].batch_sizes,
                        ),
                        first.device if first else "none",
                        max(1, len(mine)),
                        first.max_in_flight if first else 1,
                    )
                )
        limits = {name: limit for name, limit in stretch.devices.items() if limit is not None}
        return Deployment(tuple(models), limits)


class _Requests:
    """All requests of a stretch in order of their ids, and those that are reported on.

    Those whose end was not recorded are played but not reported.
    """

    def __init__(self, stretch: Stretch, models: frozenset[str] | None) -> None:
        self.every = sorted(stretch.requests, key=lambda request: request.id)
        self.ids = np.array([request.id for request in self.every], np.int64)
        known = stretch.settings
        self.of_models = np.array(
            [models is None or model_of(request.model) in models for request in self.every],
            np.bool_,
        )
        """Whether each request is of a model that is reported on."""
        self._mask = self.of_models & np.array(
            [request.id in stretch.settled and request.model in known for request in self.every],
            np.bool_,
        )
        self.reported = [
            request for request, mine in zip(self.every, self._mask, strict=True) if mine
        ]
        self.workload = self._workload(stretch.begins_ns)
        self._own_due_ns = np.array(
            [NEVER_NS if r.due_ns is None else r.due_ns - stretch.begins_ns for r in self.every],
            np.int64,
        )

    def _workload(self, begins_ns: int) -> Workload:
        every = self.every
        kinds = {(r.model, r.tenant, r.priority) for r in every}
        apart = len(kinds) <= MOST_KINDS
        places: dict[Kind, int] = {}
        kind = [
            places.setdefault(
                Kind(r.model, r.tenant, r.priority) if apart else Kind(r.model, "", 0), len(places)
            )
            for r in every
        ]
        return Workload(
            np.array([r.arrival_ns - begins_ns for r in every], np.int64),
            np.array([r.rows for r in every], np.int64),
            np.array(kind, np.int64),
            tuple(places),
        )

    def chosen(self, run: Run, settings: dict[str, ModelSettings]) -> Run:
        """The run with the reported requests alone, and when they are due under these settings."""
        mask, given = self._mask, run.workload
        reported = given.kind[mask]
        used = np.unique(reported)
        kinds = tuple(given.kinds[place] for place in used.tolist())
        workload = Workload(
            given.at_ns[mask], given.rows[mask], np.searchsorted(used, reported), kinds
        )
        targets = [settings[kind.model].target_ns for kind in kinds]
        of_kind = np.array([NEVER_NS if t is None else t for t in targets], np.int64)
        target_due_ns: NDArray[np.int64] = workload.at_ns + of_kind[workload.kind]
        own_ns = self._own_due_ns[mask]
        return replace(
            run,
            workload=workload,
            settled_ns=run.settled_ns[mask],
            outcome=run.outcome[mask],
            reason=run.reason[mask],
            batch_rows=run.batch_rows[mask],
            due_ns=np.where(own_ns == NEVER_NS, target_due_ns, own_ns),
        )


def _curve(learned: Learned, model: str, max_rows: int) -> Curve:
    sampler = learned.batches.find((model, None, None))
    if sampler is not None:
        return sampler.curve
    profile = learned.profiles.get(model)
    if profile:
        return from_table(profile, max_rows)
    raise InputError(
        f"model {model!r}: what its batches take is not known, because none was recorded;"
        " choose another one (--model), or another part of the log"
    )


def _one_by_one(state: State) -> State:
    """The state, with instances that get a batch only when the one before it has ended.

    The recorded service times already contain what prefetching saves.
    """
    instances = [replace(each, up=replace(each.up, prefetches=False)) for each in state.instances]
    return replace(state, instances=tuple(instances))


def _restored(state: State, factory: PolicyFactory) -> Scheduler:
    try:
        return Scheduler.restore(state, factory)
    except Exception as error:
        raise InputError(
            f"this version cannot restore the scheduler's state in the log: {describe(error)};"
            " replay it with the version that recorded it"
        ) from error


def _causes(stretch: Stretch, variant: Variant) -> Iterator[tuple[int, Event]]:
    for at_ns, event in stretch.causes:
        if type(event) is ModelConfigured:
            wanted = variant.settings(event.model, event.settings)
            yield at_ns, ModelConfigured(event.model, wanted, event.replaces)
        elif type(event) is InstanceUp:
            yield at_ns, replace(event, prefetches=False)
        else:
            yield at_ns, event


def _timer_delay(late_ns: Sequence[int], draw: np.random.Generator) -> Callable[[], int] | None:
    if not late_ns:
        return None
    chance = uniform(draw)
    return lambda: late_ns[int(chance() * len(late_ns))]


class _Devices:
    """Draws the service time and the end of each dispatched batch."""

    def __init__(
        self,
        stretch: Stretch,
        learned: Learned,
        draw: np.random.Generator,
        scheduler: Scheduler,
    ) -> None:
        self._models = scheduler.models
        self.use: dict[str, DeviceUse] = {}
        self.failed_batches: Counter[str] = Counter()
        """By model, batches that failed though none of their requests made them fail."""
        self._learned = learned
        self._clock_ns = stretch.clock_ns
        self._bad_inputs = stretch.bad_inputs
        self._failing_requests = stretch.failing_requests
        self._outages = stretch.outages
        self._device_of = {name: up.device for name, up in stretch.instances.items()}
        self._ends_ns: dict[str, list[int]] = {}
        self._chance = uniform(draw)

    def outcome(self, dispatch: Dispatch, now_ns: int) -> tuple[int, BatchProgress, int | None]:
        """When a batch ends, the report of its end, and how long it takes to send its answers."""
        rows = sum([part.stop - part.start for part in dispatch.parts])
        device = self._device_of[dispatch.instance]
        ends_ns = self._ends_ns.setdefault(device, [])
        while ends_ns and ends_ns[0] <= now_ns:
            heapq.heappop(ends_ns)
        took_ns, cause = self._took(dispatch, now_ns, rows, len(ends_ns))
        done_ns = now_ns + took_ns
        heapq.heappush(ends_ns, done_ns)
        self.use.setdefault(device, DeviceUse()).busy_ns += took_ns
        ids = tuple([part.id for part in dispatch.parts])
        if cause is not None:
            self.failed_batches[dispatch.model] += 1
        elif not self._failing_requests.keys().isdisjoint(ids):
            cause = next(
                self._failing_requests[each] for each in ids if each in self._failing_requests
            )
        failed: tuple[Failure, ...] = ()
        if cause is not None:
            ids = ()
        elif not self._bad_inputs.isdisjoint(ids):
            bad = self._bad_inputs.intersection(ids)
            failed = tuple(Failure(each, FailureCause.INPUT) for each in ids if each in bad)
            ids = tuple([each for each in ids if each not in bad])
        timings = Timings(now_ns, now_ns, done_ns)
        progress = BatchProgress(dispatch.batch_id, ids, failed, timings=timings, error=cause)
        return done_ns, progress, self._replies(dispatch.model, done_ns, rows) if ids else None

    def _took(
        self, dispatch: Dispatch, now_ns: int, rows: int, beside: int
    ) -> tuple[int, FailureCause | None]:
        failed = self._outage(dispatch.instance, now_ns - self._clock_ns)
        if failed is not None:
            return failed.took_ns, failed.cause
        model = self._models.get(dispatch.model)
        if model is not None:
            rows = filled_rows(rows, model.settings.batch_sizes)
        sampler = self._learned.batch(dispatch.model, dispatch.bucket, beside)
        if sampler is None:
            return _curve(self._learned, dispatch.model, rows)[rows], None
        return sampler.draw(now_ns - self._clock_ns, rows, self._chance)

    def _outage(self, instance: str, at_ns: int) -> Sample | None:
        """The sample of the outage at this moment of the log, if there is one."""
        outages = self._outages.get(instance, [])
        place = bisect_right(outages, at_ns, key=lambda each: each[0])
        return outages[place - 1][1] if place else None

    def _replies(self, model: str, now_ns: int, rows: int) -> int | None:
        sampler = self._learned.replies.find(model)
        return (
            None
            if sampler is None
            else sampler.draw(now_ns - self._clock_ns, rows, self._chance)[0]
        )


class _Replaying(Driver):
    """A driver whose batches may fail, and whose answers take time to be sent."""

    def __init__(
        self,
        scheduler: Scheduler,
        devices: _Devices,
        observe: Observer,
        timer_delay: Callable[[], int] | None,
    ) -> None:
        super().__init__(scheduler, lambda _: 0, observe=observe, timer_delay=timer_delay)
        self._devices = devices

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Post the batch's end, and when its answers are sent."""
        done_ns, progress, replies_ns = self._devices.outcome(dispatch, now_ns)
        self.post(done_ns, progress)
        if replies_ns is not None:
            rows = sum([part.stop - part.start for part in dispatch.parts])
            took = RepliesTook(dispatch.model, rows, replies_ns)
            self.post(done_ns + replies_ns, took)
