"""Reads stretches of recorded logs: what happens again in a what-if run, and what it can learn from.

Causes happen again whatever the scheduler does: arrivals, callers who cancel, instances and models
that come and go. Consequences (batches, their service times, the ends of requests) depend on the
scheduler that was recorded; a what-if run learns service times from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from batcher.core.batch_sizes import filled_rows
from batcher.core.commands import Dispatch, Reason, Settle
from batcher.core.events import (
    SEARCHED,
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
"""This many batches in a row that failed on an instance, with no request in common, are an outage: no
request made them fail."""

MOST_REQUESTS: Final = 2_000_000
"""The most requests of one what-if; with more, a part of the log has to be chosen."""


@dataclass(slots=True)
class _Running:
    """A batch that was dispatched in the log and has not ended. A prefetched one begins later."""

    dispatch: Dispatch
    at_ns: int
    rows: int
    device: str
    beside: int
    prefetched: bool


@dataclass(frozen=True, slots=True)
class _Failed:
    """A batch that failed as a whole, possibly because of one of its requests."""

    ids: frozenset[int]
    cause: FailureCause
    sample: Sample
    kinds: tuple[BatchKind, ...]


@dataclass(slots=True)
class Stretch:
    """A stretch of the log without a gap."""

    state: State
    """The scheduler's state at its beginning."""
    begins_ns: int
    """When it begins. (The state of a scheduler without any event yet has no time.)"""
    clock_ns: int = 0
    """Its clock at the beginning of the logs, so that the samples of all logs share a time base."""
    causes: list[tuple[int, Event]] = field(default_factory=list)
    """Events that happen again, in order of time."""
    requests: list[RequestArrived] = field(default_factory=list)
    """Those that waited or ran at the beginning, then all that arrived."""
    settled: set[int] = field(default_factory=set)
    """Requests whose end was recorded."""
    bad_inputs: set[int] = field(default_factory=set)
    """Requests that failed because of their input while their batch-mates succeeded."""
    failing_requests: dict[int, FailureCause] = field(default_factory=dict)
    """Requests that make every batch fail that they are in, with the recorded cause: they failed
    alone, or all their batch-mates succeeded in the end."""
    outages: dict[str, list[tuple[int, Sample | None]]] = field(default_factory=dict)
    """By instance, in order of time: from when on every batch failed as this sample did (None: the
    outage is over). Moments are on the time base of samples."""
    failed_batches: Counter[str] = field(default_factory=Counter)
    """By model, batches that failed as a whole though none of their requests is known to make them
    fail."""
    settings: dict[str, ModelSettings] = field(default_factory=dict)
    """By model, the settings that were configured last."""
    instances: dict[str, InstanceUp] = field(default_factory=dict)
    """Every instance that was ever up."""
    devices: dict[str, int | None] = field(default_factory=dict)
    """By device, how many batches it may run at once."""
    commands: Recorder = field(default_factory=Recorder)
    """The scheduler's commands."""
    use: dict[str, DeviceUse] = field(default_factory=dict)
    """What the devices did."""
    ended_ns: int = 0


class Samples:
    """Samples of all stretches, added while these are read."""

    def __init__(self, max_rows: int) -> None:
        self.batches: Kinds[BatchKind] = Kinds(max_rows)
        self.replies: Kinds[str] = Kinds(max_rows)
        self.profiles: dict[str, dict[int, int]] = {}
        self._in_outages: list[tuple[Sample, tuple[BatchKind, ...]]] = []

    def allowed(self, settings: ModelSettings) -> None:
        """Note the largest batch that these settings allow."""
        for kinds in (self.batches, self.replies):
            kinds.max_rows = max(kinds.max_rows, settings.max_batch_size)

    def failed(self, sample: Sample, kinds: tuple[BatchKind, ...]) -> None:
        """Add a batch that failed in an outage: it is used only where there are no other samples."""
        self._in_outages.append((sample, kinds))

    def learned(self, late_ns: list[int]) -> Learned:
        """The service times that the samples show."""
        for sample, kinds in [each for each in self._in_outages if each[1][-1] not in self.batches]:
            self.batches.add(sample, *kinds)
        return Learned(self.batches, self.replies, self.profiles, late_ns)


def stretches(segments: Iterable[Segment], until_ns: int, samples: Samples) -> Iterator[Stretch]:
    """The stretches of these segments without a gap; their samples are added to `samples`.

    They end `until_ns` after the beginning of their logs. A segment that cannot be read to its end
    ends a stretch. Raises `InputError` where there are too many requests.
    """
    reader: _Reader | None = None
    before: Segment | None = None
    requests = 0
    for segment in segments:
        if segment.since(segment.opening.now_ns) > until_ns:
            continue
        if reader is None or before is None or not segment.follows(before):
            if reader is not None:
                yield reader.finish()
            try:
                reader = _Reader(segment, samples)
            except CodecError:
                reader = before = None
                continue
        requests += segment.requests
        if requests > MOST_REQUESTS:
            raise InputError(
                f"got more than {MOST_REQUESTS:,} requests; choose a part of the log, with"
                " --segment, --from or --to"
            )
        before = segment
        try:
            for step in segment.steps():
                if segment.since(step.now_ns) > until_ns:
                    break
                reader.take(step)
        except CodecError:
            before = None
    if reader is not None:
        yield reader.finish()


class _Reader:
    """Reads one stretch step by step, and separates causes from consequences."""

    def __init__(self, segment: Segment, samples: Samples) -> None:
        state = segment.state()
        stretch = self.stretch = Stretch(state, segment.opening.now_ns, segment.began_ns)
        self._samples = samples
        self._running: dict[int, _Running] = {}
        self._on_device: dict[str, int] = {}
        self._suspects: dict[int, FailureCause] = {}
        """Requests of batches that failed as a whole."""
        self._in_a_row: dict[str, list[_Failed]] = {}
        """By instance, batches that failed since the last one that succeeded."""
        self._failed: list[_Failed] = []
        """Earlier failed batches; one of their requests may have made them fail."""
        self._first_batches = {batch.batch_id for batch in state.batches}
        self._first_running = {batch.batch_id: batch.instance for batch in state.batches}
        for request in state.requests:
            stretch.requests.append(request.arrived)
        for model in state.models:
            self._configured(model.model, model.settings)
        for instance in state.instances:
            self._up(instance.up)
        stretch.devices.update(dict(state.devices))

    def take(self, step: Step) -> None:
        """Read one step."""
        now_ns, stretch = step.now_ns, self.stretch
        stretch.ended_ns = now_ns
        for event in step.events:
            self._event(now_ns, event)
        if step.commands:
            stretch.commands(now_ns - stretch.begins_ns, step.commands)
        if self._suspects:
            self._find_failing_requests(step)
        for command in step.commands:
            if type(command) is Dispatch:
                self._dispatched(now_ns, command)
            elif type(command) is Settle:
                stretch.settled.update(command.ids)

    def finish(self) -> Stretch:
        """The whole stretch. Batches that failed without a failing request did so because of the moment."""
        for instance in list(self._in_a_row):
            self._end_row(instance)
        for outages in self.stretch.outages.values():
            outages.sort(key=lambda each: each[0])
        failing_requests = self.stretch.failing_requests
        for failed in self._failed:
            if failing_requests.keys().isdisjoint(failed.ids):
                self._add_failure(failed.sample, failed.kinds)
            else:
                self._samples.batches.add(replace(failed.sample, cause=None), *failed.kinds)
        return self.stretch

    def _end_row(self, instance: str) -> None:
        """A run of failed batches ends: decide whether it was an outage or had failing requests."""
        in_a_row = self._in_a_row.pop(instance, [])
        seen: set[int] = set()
        apart = 0
        for failed in in_a_row:
            if seen.isdisjoint(failed.ids):
                apart += 1
                seen |= failed.ids
        if apart >= LEAST_APART:
            moments: list[tuple[int, Sample | None]]
            moments = [(failed.sample.at_ns, failed.sample) for failed in in_a_row]
            moments.append((max(at_ns for at_ns, _ in moments) + 1, None))
            self.stretch.outages.setdefault(instance, []).extend(moments)
            for failed in in_a_row:
                self._count(failed.kinds)
                self._samples.failed(failed.sample, failed.kinds)
            return
        self._failed += in_a_row
        for failed in in_a_row:
            if len(failed.ids) == 1:
                self.stretch.failing_requests.update(dict.fromkeys(failed.ids, failed.cause))

    def _add_failure(self, sample: Sample, kinds: tuple[BatchKind, ...]) -> None:
        self._count(kinds)
        self._samples.batches.add(sample, *kinds)

    def _count(self, kinds: tuple[BatchKind, ...]) -> None:
        """Count a batch that failed though none of its requests made it fail."""
        model, *_ = kinds[0]
        self.stretch.failed_batches[model] += 1

    def _event(self, now_ns: int, event: Event) -> None:
        stretch = self.stretch
        if type(event) is RequestArrived:
            stretch.requests.append(event)
        elif type(event) is BatchProgress:
            if event.batch_id not in self._first_batches:
                self._progress(now_ns, event)
                return
            # It ran when the stretch began, and ends at the recorded time.
            if event.last and event.batch_id in self._first_running:
                self._begin_next(self._first_running.pop(event.batch_id), now_ns)
        elif type(event) is RepliesTook:
            sample = Sample(now_ns - event.took_ns - stretch.clock_ns, event.rows, event.took_ns)
            self._samples.replies.add(sample, event.model)
            return
        elif type(event) is ModelConfigured:
            self._configured(event.model, event.settings)
        elif type(event) is InstanceUp:
            self._up(event)
        elif type(event) is InstanceDown:
            self._down(event)
        elif type(event) is DeviceConfigured:
            stretch.devices[event.device] = event.max_in_flight
        stretch.causes.append((now_ns, event))

    def _configured(self, model: str, settings: ModelSettings) -> None:
        self.stretch.settings[model] = settings
        self._samples.allowed(settings)

    def _up(self, up: InstanceUp) -> None:
        self.stretch.instances[up.instance] = up
        self._on_device.setdefault(up.device, 0)
        if up.profile:
            self._samples.profiles[up.model] = dict(up.profile)

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
        up = self.stretch.instances[dispatch.instance]
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
        stretch = self.stretch
        bad = [failure for failure in event.failed if failure.cause is FailureCause.INPUT]
        stretch.bad_inputs.update([failure.id for failure in bad])
        if not event.last:
            return
        running = self._running.pop(event.batch_id, None)
        if running is None:
            return
        self._on_device[running.device] -= 1
        self._begin_next(running.dispatch.instance, now_ns)
        took_ns = now_ns - running.at_ns
        use = stretch.use.setdefault(running.device, DeviceUse())
        use.busy_ns += took_ns
        cause = _batch_failure(event)
        model, shapes = running.dispatch.model, running.dispatch.bucket
        kinds = (model, shapes, running.beside), (model, shapes, None), (model, None, None)
        settings = stretch.settings.get(model)
        rows = filled_rows(running.rows, () if settings is None else settings.batch_sizes)
        sample = Sample(running.at_ns - stretch.clock_ns, rows, took_ns, cause)
        if cause is None:
            self._end_row(running.dispatch.instance)
            self._samples.batches.add(sample, *kinds)
        elif cause is FailureCause.ABANDONED:
            pass  # its requests had ended, so it says nothing of what a batch takes
        elif cause not in SEARCHED:
            self._add_failure(sample, kinds)
        else:
            ids = frozenset(part.id for part in running.dispatch.parts)
            self._suspects.update(dict.fromkeys(ids, cause))
            in_a_row = self._in_a_row.setdefault(running.dispatch.instance, [])
            in_a_row.append(_Failed(ids, cause, sample, kinds))

    def _begin_next(self, instance: str, now_ns: int) -> None:
        """A batch has ended, and the instance begins its prefetched one."""
        for other in self._running.values():
            if other.prefetched and other.dispatch.instance == instance:
                other.at_ns, other.prefetched = now_ns, False

    def _find_failing_requests(self, step: Step) -> None:
        """Find suspects that failed in a step in which no batch did: they made their batches fail."""
        reported: set[int] = set()
        for event in step.events:
            if type(event) is ModelConfigured:
                return
            if type(event) is BatchProgress:
                if _batch_failure(event) is not None:
                    return
                reported.update([failure.id for failure in event.failed])
        for command in step.commands:
            if type(command) is Settle and command.reason is Reason.UNKNOWN_FAILURE:
                for request_id in command.ids:
                    if request_id in self._suspects and request_id not in reported:
                        self.stretch.failing_requests[request_id] = self._suspects[request_id]


def _batch_failure(event: BatchProgress) -> FailureCause | None:
    """The cause if a batch failed as a whole, else None."""
    if event.error is not None or event.done:
        return event.error
    causes = {failure.cause for failure in event.failed} - {FailureCause.INPUT}
    return causes.pop() if len(causes) == 1 else None
