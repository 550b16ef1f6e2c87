"""`Sampler`: reads the counters of every model once a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from batcher.clock import SECOND, Clock
from batcher.core.observation import ModelObservation, Observation
from batcher.telemetry.export import Labels
from batcher.telemetry.live.history import History, Point
from batcher.telemetry.live.window import (
    Counts,
    Window,
    Windows,
    arrived_between,
    between,
    counts,
    unserved_between,
)
from batcher.telemetry.model import ModelTelemetry


class Counted(Protocol):
    """The counts of every model, which `Telemetry` has."""

    def __iter__(self) -> Iterator[ModelTelemetry]:
        """The counts of each model."""
        ...

    def observed(self, observation: Observation) -> Iterable[tuple[Labels, ModelObservation]]:
        """The labels of each model, and what is observed of all its generations."""
        ...


@dataclass
class ModelSample:
    """One model at the last sample."""

    name: str
    version: str
    counts: Counts
    """Its counters, since the start."""
    before: Counts | None
    """Its counters at the start of the window; None at the first sample of the model."""
    queue: ModelObservation | None
    """Its queue; None while the scheduler does not know it (it is loading, or failed to load)."""
    peak_age_s: float
    """The highest age that its oldest unanswered request had since the sample before."""
    history: History

    @cached_property
    def window(self) -> Window | None:
        """The last seconds; None at the first sample of the model. Computed for those who ask."""
        return None if self.before is None else between(self.before, self.counts)

    @property
    def age_s(self) -> float:
        """How old the oldest unanswered request is; 0 if there is none."""
        if self.queue is None:
            return 0.0
        oldest_ns = max(self.queue.oldest_waiting_ns or 0, self.queue.oldest_executing_ns or 0)
        return oldest_ns / SECOND


@dataclass(slots=True)
class _Kept:
    """What is kept of a model from one sample to the next."""

    counted: ModelTelemetry
    windows: Windows = field(default_factory=Windows)
    history: History = field(default_factory=History)


class Sampler:
    """The last sample of every model. `sample` is to be called once a second."""

    def __init__(self, counted: Counted, observe: Callable[[], Observation], clock: Clock) -> None:
        self._counted = counted
        self._observe = observe
        self._clock = clock
        self._kept: dict[Labels, _Kept] = {}
        self._at_ns = clock()
        self._samples: dict[Labels, ModelSample] = {}

    @property
    def models(self) -> tuple[ModelSample, ...]:
        """The last sample of every model that is or was to be served, in the order of the configuration."""
        return tuple(self._samples.values())

    def sample(self) -> None:
        """Read all counters. Models that are gone are dropped, with their history."""
        now_ns = self._clock()
        passed_s = (now_ns - self._at_ns) / SECOND
        self._at_ns = now_ns
        observed = dict(self._counted.observed(self._observe()))
        before, self._kept = self._kept, {}
        self._samples = {
            model.labels: self._sampled(model, before, observed, now_ns, passed_s)
            for model in self._counted
        }

    def of(self, name: str, version: str) -> ModelSample | None:
        """The last sample of a model; None if there is none yet."""
        return self._samples.get((name, version))

    def _sampled(
        self,
        model: ModelTelemetry,
        before: dict[Labels, _Kept],
        observed: dict[Labels, ModelObservation],
        now_ns: int,
        passed_s: float,
    ) -> ModelSample:
        kept = before.get(model.labels)
        if kept is None or kept.counted is not model:
            kept = _Kept(model)  # new, or one that went and came back: its counters began anew
        self._kept[model.labels] = kept
        queue = observed.get(model.labels)
        unanswered = 0 if queue is None else queue.waiting_requests + queue.executing_requests
        read = counts(model, unanswered, now_ns)
        found = kept.windows.add(read)
        name, version = model.labels
        window = None if found is None else found[1]
        sample = ModelSample(name, version, read, window, queue, 0.0, kept.history)
        sample.peak_age_s = max(model.take_longest_ns() / SECOND, sample.age_s)
        if found is not None:
            arrived, unserved = arrived_between(found[0], read), unserved_between(found[0], read)
            point = Point(sample.peak_age_s, arrived, unserved)
            kept.history.add(point, skipped=max(0, round(passed_s) - 1))
        return sample
