"""What happened in a recorded log, taken apart into causes and consequences.

Causes happen again whatever the scheduler does: arrivals, callers who leave, instances and models
that come and go. Consequences (batches, how long they took, the ends of requests) are what was
recorded of the scheduler that was there; from them a what-if learns what batches take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from batcher.core.commands import Dispatch, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    DeviceConfigured,
    Event,
    FailureCause,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    RepliesTook,
    RequestArrived,
)
from batcher.core.settings import ModelSettings
from batcher.core.state import State
from batcher.errors import InputError
from batcher.journal import CodecError, Segment, Step
from batcher.simulation.engine.service_time import DeviceUse
from batcher.simulation.engine.simulation import Recorder
from batcher.simulation.logs.learned import BatchKind, Kinds, Learned, Sample

LEAST_APART: Final = 3
"""So many batches that failed in a row on an instance, none with requests of another, are an outage
and no request's fault."""

MOST_REQUESTS: Final = 2_000_000
"""Of one what-if: a part of the log has to do for more."""


@dataclass(slots=True)
class _Running:
    """A batch that was dispatched in the log. A prefetched one begins later."""

    dispatch: Dispatch
    at_ns: int
    rows: int
    device: str
    beside: int
    prefetched: bool


@dataclass(frozen=True, slots=True)
class _Failed:
    """A batch that failed as a whole, maybe because of one of its requests."""

    whom: frozenset[int]
    cause: FailureCause
    sample: Sample
    kinds: tuple[BatchKind, ...]


@dataclass(slots=True)
class Story:
    """A stretch of the log without a gap."""

    state: State
    """Where it begins."""
    begins_ns: int
    """The moment that it begins; a scheduler that was told nothing yet has no time of its own."""
    clock_ns: int = 0
    """What its clock said when the logs began: samples of all logs are on one time base."""
    causes: list[tuple[int, Event]] = field(default_factory=list)
    """What happens again, in order of time."""
    requests: list[RequestArrived] = field(default_factory=list)
    """Those that waited or ran at the beginning, then all that arrived."""
    settled: set[int] = field(default_factory=set)
    """Requests whose end was recorded."""
    poison: set[int] = field(default_factory=set)
    """Requests that failed because of what was in them, and spared their mates."""
    spoilers: dict[int, FailureCause] = field(default_factory=dict)
    """Requests that failed alone, or must be at fault because all their mates did not fail: every
    batch fails that they are in. With the cause that was recorded."""
    outages: dict[str, list[tuple[int, Sample | None]]] = field(default_factory=dict)
    """By instance, in order of time: from when on every batch failed as this one did, or none did
    for that reason. Moments as samples have them."""
    failed_batches: Counter[str] = field(default_factory=Counter)
    """By model, batches that failed as a whole though none of their requests is known to be at
    fault."""
    settings: dict[str, ModelSettings] = field(default_factory=dict)
    """Of every model: the last that was configured."""
    instances: dict[str, InstanceUp] = field(default_factory=dict)
    """Every instance that was ever up."""
    devices: dict[str, int | None] = field(default_factory=dict)
    """Bounds by device."""
    commands: Recorder = field(default_factory=Recorder)
    """What the scheduler commanded."""
    use: dict[str, DeviceUse] = field(default_factory=dict)
    """What the devices did."""
    ended_ns: int = 0


class Lessons:
    """Samples of all stories, as they are told."""

    def __init__(self, max_rows: int) -> None:
        self.batches: Kinds[BatchKind] = Kinds(max_rows)
        self.replies: Kinds[str] = Kinds(max_rows)
        self.profiles: dict[str, dict[int, int]] = {}
        self._in_outages: list[tuple[Sample, tuple[BatchKind, ...]]] = []

    def allowed(self, settings: ModelSettings) -> None:
        """Batches of such a size were allowed."""
        for kinds in (self.batches, self.replies):
            kinds.max_rows = max(kinds.max_rows, settings.max_batch_size)

    def failed(self, sample: Sample, kinds: tuple[BatchKind, ...]) -> None:
        """A batch failed in an outage: it says nothing of others, unless there are none."""
        self._in_outages.append((sample, kinds))

    def learned(self, late_ns: list[int]) -> Learned:
        """What they come to."""
        for sample, kinds in [each for each in self._in_outages if each[1][-1] not in self.batches]:
            self.batches.add(sample, *kinds)
        return Learned(self.batches, self.replies, self.profiles, late_ns)


def stories(segments: Iterable[Segment], until_ns: int, lessons: Lessons) -> Iterator[Story]:
    """The stretches of these segments, and what they teach added to `lessons`.

    They end `until_ns` after the beginning of their logs. A segment that cannot be read to its end ends a stretch. Raises `InputError` where there are too
    many requests.
    """
    teller: _Teller | None = None
    before: Segment | None = None
    requests = 0
    for segment in segments:
        if segment.since(segment.opening.now_ns) > until_ns:
            continue
        if teller is None or before is None or not segment.follows(before):
            if teller is not None:
                yield teller.finish()
            try:
                teller = _Teller(segment, lessons)
            except CodecError:
                teller = before = None
                continue
        requests += segment.requests
        if requests > MOST_REQUESTS:
            raise InputError(
                f"got more than {MOST_REQUESTS:,} requests; allowed: a part of the log, with"
                " --segment, --from or --to"
            )
        before = segment
        try:
            for step in segment.steps():
                if segment.since(step.now_ns) > until_ns:
                    break
                teller.take(step)
        except CodecError:
            before = None
    if teller is not None:
        yield teller.finish()


class _Teller:
    """Tells causes from consequences, step by step."""

    def __init__(self, segment: Segment, lessons: Lessons) -> None:
        state = segment.state()
        story = self.story = Story(state, segment.opening.now_ns, segment.began_ns)
        self._lessons = lessons
        self._running: dict[int, _Running] = {}
        self._on_device: dict[str, int] = {}
        self._suspects: dict[int, FailureCause] = {}
        """Requests of batches that failed as a whole."""
        self._in_a_row: dict[str, list[_Failed]] = {}
        """By instance, batches that failed since one succeeded."""
        self._failed: list[_Failed] = []
        """Those before, of which some request may be at fault."""
        self._first_batches = {batch.batch_id for batch in state.batches}
        self._first_running = {batch.batch_id: batch.instance for batch in state.batches}
        for request in state.requests:
            story.requests.append(request.arrived)
        for model in state.models:
            self._configured(model.model, model.settings)
        for instance in state.instances:
            self._up(instance.up)
        story.devices.update(dict(state.devices))

    def take(self, step: Step) -> None:
        """One step."""
        now_ns, story = step.now_ns, self.story
        story.ended_ns = now_ns
        for event in step.events:
            self._event(now_ns, event)
        if step.commands:
            story.commands(now_ns - story.begins_ns, step.commands)
        if self._suspects:
            self._convict(step)
        for command in step.commands:
            if type(command) is Dispatch:
                self._dispatched(now_ns, command)
            elif type(command) is Settle:
                story.settled.update(command.ids)

    def finish(self) -> Story:
        """The whole story. What failed through no request's fault did so because of its moment."""
        for instance in list(self._in_a_row):
            self._end_row(instance)
        for outages in self.story.outages.values():
            outages.sort(key=lambda each: each[0])
        spoilers = self.story.spoilers
        for failed in self._failed:
            if spoilers.keys().isdisjoint(failed.whom):
                self._blame_nobody(failed.sample, failed.kinds)
            else:
                self._lessons.batches.add(replace(failed.sample, cause=None), *failed.kinds)
        return self.story

    def _end_row(self, instance: str) -> None:
        """No more batches fail in a row: it was an outage, or requests that failed alone did it."""
        in_a_row = self._in_a_row.pop(instance, [])
        seen: set[int] = set()
        apart = 0
        for failed in in_a_row:
            if seen.isdisjoint(failed.whom):
                apart += 1
                seen |= failed.whom
        if apart >= LEAST_APART:
            moments: list[tuple[int, Sample | None]]
            moments = [(failed.sample.at_ns, failed.sample) for failed in in_a_row]
            moments.append((max(at_ns for at_ns, _ in moments) + 1, None))
            self.story.outages.setdefault(instance, []).extend(moments)
            for failed in in_a_row:
                self._count(failed.kinds)
                self._lessons.failed(failed.sample, failed.kinds)
            return
        self._failed += in_a_row
        for failed in in_a_row:
            if len(failed.whom) == 1:
                self.story.spoilers.update(dict.fromkeys(failed.whom, failed.cause))

    def _blame_nobody(self, sample: Sample, kinds: tuple[BatchKind, ...]) -> None:
        self._count(kinds)
        self._lessons.batches.add(sample, *kinds)

    def _count(self, kinds: tuple[BatchKind, ...]) -> None:
        """One more that failed through no request's fault."""
        model, *_ = kinds[0]
        self.story.failed_batches[model] += 1

    def _event(self, now_ns: int, event: Event) -> None:
        story = self.story
        if type(event) is RequestArrived:
            story.requests.append(event)
        elif type(event) is BatchProgress:
            if event.batch_id not in self._first_batches:
                self._progress(now_ns, event)
                return
            # It ran when the story began, and ends when it ended.
            if event.last and event.batch_id in self._first_running:
                self._begin_next(self._first_running.pop(event.batch_id), now_ns)
        elif type(event) is RepliesTook:
            sample = Sample(now_ns - event.took_ns - story.clock_ns, event.rows, event.took_ns)
            self._lessons.replies.add(sample, event.model)
            return
        elif type(event) is ModelConfigured:
            self._configured(event.model, event.settings)
        elif type(event) is InstanceUp:
            self._up(event)
        elif type(event) is InstanceDown:
            self._down(event)
        elif type(event) is DeviceConfigured:
            story.devices[event.device] = event.max_in_flight
        story.causes.append((now_ns, event))

    def _configured(self, model: str, settings: ModelSettings) -> None:
        self.story.settings[model] = settings
        self._lessons.allowed(settings)

    def _up(self, up: InstanceUp) -> None:
        self.story.instances[up.instance] = up
        self._on_device.setdefault(up.device, 0)
        if up.profile:
            self._lessons.profiles[up.model] = dict(up.profile)

    def _down(self, down: InstanceDown) -> None:
        lost = [
            batch_id
            for batch_id, running in self._running.items()
            if running.dispatch.instance == down.instance
        ]
        first = self._first_running
        self._first_running = {i: name for i, name in first.items() if name != down.instance}
        for batch_id in lost:
            self._on_device[self._running.pop(batch_id).device] -= 1

    def _dispatched(self, now_ns: int, dispatch: Dispatch) -> None:
        up = self.story.instances[dispatch.instance]
        rows = sum([part.stop - part.start for part in dispatch.parts])
        running = [b for b in self._running.values() if b.dispatch.instance == up.instance]
        first = [name for name in self._first_running.values() if name == up.instance]
        prefetched = len(running) + len(first) >= up.max_in_flight
        beside = self._on_device[up.device]
        self._on_device[up.device] = beside + 1
        self._running[dispatch.batch_id] = _Running(
            dispatch, now_ns, rows, up.device, beside - (prefetched and bool(running)), prefetched
        )

    def _progress(self, now_ns: int, event: BatchProgress) -> None:
        story = self.story
        bad = [failure for failure in event.failed if failure.cause is FailureCause.INPUT]
        story.poison.update([failure.id for failure in bad])
        if not event.last:
            return
        running = self._running.pop(event.batch_id, None)
        if running is None:
            return
        self._on_device[running.device] -= 1
        self._begin_next(running.dispatch.instance, now_ns)
        took_ns = now_ns - running.at_ns
        use = story.use.setdefault(running.device, DeviceUse())
        use.busy_ns += took_ns
        cause = _blame(event)
        model, shapes = running.dispatch.model, running.dispatch.bucket
        kinds = (model, shapes, running.beside), (model, shapes, None), (model, None, None)
        sample = Sample(running.at_ns - story.clock_ns, running.rows, took_ns, cause)
        if cause is None:
            self._end_row(running.dispatch.instance)
            self._lessons.batches.add(sample, *kinds)
        elif cause is FailureCause.DEVICE:
            self._blame_nobody(sample, kinds)
        else:
            whom = frozenset(part.id for part in running.dispatch.parts)
            self._suspects.update(dict.fromkeys(whom, cause))
            in_a_row = self._in_a_row.setdefault(running.dispatch.instance, [])
            in_a_row.append(_Failed(whom, cause, sample, kinds))

    def _begin_next(self, instance: str, now_ns: int) -> None:
        """A batch is over, and the instance begins with its prefetched one."""
        for other in self._running.values():
            if other.prefetched and other.dispatch.instance == instance:
                other.at_ns, other.prefetched = now_ns, False

    def _convict(self, step: Step) -> None:
        """Find suspects that failed in a step in which no batch did: it must be their fault."""
        reported: set[int] = set()
        for event in step.events:
            if type(event) is ModelConfigured:
                return
            if type(event) is BatchProgress:
                if _blame(event) is not None:
                    return
                reported.update([failure.id for failure in event.failed])
        for command in step.commands:
            if type(command) is Settle and command.reason is Reason.UNKNOWN_FAILURE:
                for request_id in command.ids:
                    if request_id in self._suspects and request_id not in reported:
                        self.story.spoilers[request_id] = self._suspects[request_id]


def _blame(event: BatchProgress) -> FailureCause | None:
    """Why a batch failed as a whole, if it did."""
    if event.error is not None or event.done:
        return event.error
    causes = {failure.cause for failure in event.failed} - {FailureCause.INPUT}
    return causes.pop() if len(causes) == 1 else None
