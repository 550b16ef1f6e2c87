"""What a recorded stretch would have been like under other settings.

The production scheduler starts from the recorded state and meets the recorded causes again, under
virtual time; what its batches take is drawn from what was learned. The same run under the recorded
settings stands beside it: how far that is from what was recorded is how far the rest can be trusted.
Callers are taken for an open stream: they send what they sent, whatever they are answered.
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
from batcher.simulation.engine.service_time import Curve, DeviceUse, from_table
from batcher.simulation.engine.simulation import Recorder, Run, generator
from batcher.simulation.logs.learned import Learned, Sample, uniform
from batcher.simulation.logs.story import Story
from batcher.simulation.traffic.workload import Kind, Mix, Traffic, Workload

RECORDED: Final = "recorded"
REPLAYED: Final = "replayed"
"""The recorded settings under virtual time."""

MOST_KINDS: Final = 32
"""Kinds of requests that are told apart in a report; with more, only models are."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings to try: what they make of a model's, by its name in events."""

    name: str
    settings: Callable[[str, ModelSettings], ModelSettings] = lambda _model, settings: settings
    factory: PolicyFactory = make_policy


class WhatIf:
    """Runs of one story. `models` are those whose requests are reported on; None is all."""

    def __init__(self, story: Story, learned: Learned, models: frozenset[str] | None) -> None:
        self._story = story
        self._learned = learned
        self._models = models
        self._requests = _Requests(story, models)

    @property
    def requests(self) -> int:
        """How many requests are reported on. The rest needs one."""
        return len(self._requests.reported)

    def recorded(self) -> Run:
        """What was recorded."""
        story = self._story
        run = story.commands.run(
            RECORDED,
            self._deployment(story.settings),
            self._requests.workload,
            story.use,
            story.ended_ns - story.begins_ns,
            self._requests.ids,
            self._requests.of_models,
        )
        run = replace(run, failed_batches=self._failed(story.failed_batches))
        return self._requests.chosen(run, story.settings)

    def play(self, variant: Variant, seed: int) -> Run:
        """The same under these settings.

        Raises `InputError` where a time is not known, or the scheduler cannot begin from the story.
        """
        story = self._story
        begins_ns = story.begins_ns
        settings = {
            model: variant.settings(model, recorded) for model, recorded in story.settings.items()
        }
        scheduler = _restored(_one_by_one(story.state), variant.factory)
        devices = _Devices(story, self._learned, generator(seed, "noise"))
        recorder = Recorder()
        driver = _Replaying(
            scheduler,
            devices,
            lambda now_ns, commands: recorder(now_ns - begins_ns, commands),
            _lateness(self._learned.late_ns, generator(seed, "late")),
        )
        changed: list[Event] = []
        for state in story.state.models:
            wanted = variant.settings(state.model, state.settings)
            if wanted != state.settings or variant.factory is not make_policy:
                changed.append(ModelConfigured(state.model, wanted))
        if changed:
            driver.step(changed, begins_ns)
        driver.run(_causes(story, variant))
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
        """Those of the models that are reported on."""
        return sum(
            n for model, n in batches.items() if self._models is None or model in self._models
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
        return self._deployment(self._story.settings).capacity(self.traffic)

    def _deployment(self, settings: dict[str, ModelSettings]) -> Deployment:
        """What was served, as far as a report needs to know."""
        story = self._story
        asked = {request.model for request in self._requests.every}
        models = []
        for name in sorted(asked):
            mine = [up for up in story.instances.values() if up.model == name]
            if name in settings:
                first = mine[0] if mine else None
                models.append(
                    SimulatedModel(
                        name,
                        settings[name],
                        _curve(self._learned, name, settings[name].max_batch_size),
                        first.device if first else "none",
                        max(1, len(mine)),
                        first.max_in_flight if first else 1,
                    )
                )
        limits = {name: limit for name, limit in story.devices.items() if limit is not None}
        return Deployment(tuple(models), limits)


class _Requests:
    """All requests of a story in order of their ids, and those that are reported on.

    Those whose end was not recorded are played but not reported.
    """

    def __init__(self, story: Story, models: frozenset[str] | None) -> None:
        self.every = sorted(story.requests, key=lambda request: request.id)
        self.ids = np.array([request.id for request in self.every], np.int64)
        known = story.settings
        self.of_models = np.array(
            [models is None or request.model in models for request in self.every], np.bool_
        )
        """Which are of the models that are reported on."""
        self._mask = self.of_models & np.array(
            [request.id in story.settled and request.model in known for request in self.every],
            np.bool_,
        )
        self.reported = [
            request for request, mine in zip(self.every, self._mask, strict=True) if mine
        ]
        self.workload = self._workload(story.begins_ns)
        self._own_due_ns = np.array(
            [NEVER_NS if r.due_ns is None else r.due_ns - story.begins_ns for r in self.every],
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
        """The run, of the reported requests alone, and when they were due under these settings."""
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
        " allowed: --model with another one, or another part of the log"
    )


def _one_by_one(state: State) -> State:
    """The state, with instances that get a batch when the last is over.

    What prefetching saves is in what batches took, as it was recorded.
    """
    instances = [replace(each, up=replace(each.up, prefetches=False)) for each in state.instances]
    return replace(state, instances=tuple(instances))


def _restored(state: State, factory: PolicyFactory) -> Scheduler:
    try:
        return Scheduler.restore(state, factory)
    except Exception as error:
        raise InputError(
            f"this version cannot restore the scheduler's state in the log: {describe(error)};"
            " allowed: a log of this version"
        ) from error


def _causes(story: Story, variant: Variant) -> Iterator[tuple[int, Event]]:
    for at_ns, event in story.causes:
        if type(event) is ModelConfigured:
            wanted = variant.settings(event.model, event.settings)
            yield at_ns, ModelConfigured(event.model, wanted)
        elif type(event) is InstanceUp:
            yield at_ns, replace(event, prefetches=False)
        else:
            yield at_ns, event


def _lateness(late_ns: Sequence[int], draw: np.random.Generator) -> Callable[[], int] | None:
    if not late_ns:
        return None
    chance = uniform(draw)
    return lambda: late_ns[int(chance() * len(late_ns))]


class _Devices:
    """What becomes of each dispatched batch."""

    def __init__(self, story: Story, learned: Learned, draw: np.random.Generator) -> None:
        self.use: dict[str, DeviceUse] = {}
        self.failed_batches: Counter[str] = Counter()
        """By model, those that failed through no request's fault."""
        self._learned = learned
        self._clock_ns = story.clock_ns
        self._poison = story.poison
        self._spoilers = story.spoilers
        self._outages = story.outages
        self._device_of = {name: up.device for name, up in story.instances.items()}
        self._ends_ns: dict[str, list[int]] = {}
        self._chance = uniform(draw)

    def outcome(self, dispatch: Dispatch, now_ns: int) -> tuple[int, BatchProgress, int | None]:
        """When a batch is done, what is reported of it, and how long its answers take to leave."""
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
        elif not self._spoilers.keys().isdisjoint(ids):
            cause = next(self._spoilers[each] for each in ids if each in self._spoilers)
        failed: tuple[Failure, ...] = ()
        if cause is not None:
            ids = ()
        elif not self._poison.isdisjoint(ids):
            bad = self._poison.intersection(ids)
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
        sampler = self._learned.batch(dispatch.model, dispatch.bucket, beside)
        if sampler is None:
            return _curve(self._learned, dispatch.model, rows)[rows], None
        return sampler.draw(now_ns - self._clock_ns, rows, self._chance)

    def _outage(self, instance: str, at_ns: int) -> Sample | None:
        """The batch of an outage at this moment of the log."""
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
    """A driver whose batches may fail, and whose answers take time to leave."""

    def __init__(
        self,
        scheduler: Scheduler,
        devices: _Devices,
        observe: Observer,
        lateness: Callable[[], int] | None,
    ) -> None:
        super().__init__(scheduler, lambda _: 0, observe=observe, lateness=lateness)
        self._devices = devices

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Post the batch's end, and that its answers have left."""
        done_ns, progress, replies_ns = self._devices.outcome(dispatch, now_ns)
        self.post(done_ns, progress)
        if replies_ns is not None:
            rows = sum([part.stop - part.start for part in dispatch.parts])
            took = RepliesTook(dispatch.model, rows, replies_ns)
            self.post(done_ns + replies_ns, took)
