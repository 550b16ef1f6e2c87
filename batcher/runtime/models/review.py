"""Once a minute, logs what a model's last minute says is wrong and can be mended.

Two things are looked for: requests refused for predictions while the device had time, which is a fault
of batcher or of its settings; and batches of one row because requests have different lengths.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

from batcher.clock import MILLISECOND, Clock, monotonic_ns
from batcher.core.commands import RefusalCause
from batcher.core.events import Shapes
from batcher.core.observation import ModelObservation, Observation
from batcher.errors import ModelUnavailable
from batcher.executor import ModelMetadata
from batcher.runtime.interface.padding import Padding
from batcher.telemetry import ModelTelemetry
from batcher.tensors import TensorSpec

log = logging.getLogger(__name__)

INTERVAL_S: Final = 60.0

REFUSED_SHARE: Final = 0.01
BUSY_SHARE: Final = 0.9
"""More refusals than the first beside a device that is less busy than the second are logged. A device
that is asked for all that it can serve is busier than that."""

FEW_REQUESTS: Final = 1.5
MANY_SHAPES: Final = 8
HINT_BUSY_SHARE: Final = 0.5
"""Requests to a batch, on average, below which different lengths are named as the cause: where at least
this many were seen, and the device was at least this busy. One that is idle has small batches anyway."""

_WHAT_TO_LOOK_AT: Final = {
    RefusalCause.QUEUE_AHEAD: (
        "bursts that take longer than batching.limit allows, or another model on the device"
    ),
    RefusalCause.MARGIN: (
        "what makes batches take longer now and then: other processes on the machine's cores,"
        " batcher_event_loop_lag_seconds, batcher_prediction_margin_ratio"
    ),
    RefusalCause.SERVICE_TIME: (
        'batches that take longer than the limit alone: batcher_stage_duration_seconds{stage="execute"},'
        " batcher_prediction_drift_ratio"
    ),
}


class ReviewedModel(Protocol):
    """The part of a served model that a review reads."""

    @property
    def key(self) -> str:
        """Its name in observations and logs."""
        ...

    @property
    def telemetry(self) -> ModelTelemetry:
        """What was counted of it."""
        ...

    @property
    def padding(self) -> Padding | None:
        """How its variable axes are padded; None if they are not."""
        ...

    @property
    def metadata(self) -> ModelMetadata:
        """Its inputs. Raises `ModelUnavailable` before the first load."""
        ...


@dataclass(slots=True)
class _Counts:
    """What was counted of a model up to a moment."""

    ended: int = 0
    refused: Counter[RefusalCause] = field(default_factory=Counter)
    batches: int = 0
    batch_requests: float = 0.0


class Reviewer:
    """Compares each model's counts with those of the last review."""

    def __init__(
        self,
        models: Iterable[ReviewedModel],
        observe: Callable[[], Observation],
        clock: Clock = monotonic_ns,
    ) -> None:
        self._models = models
        self._observe = observe
        self._clock = clock
        self._before: dict[ModelTelemetry, _Counts] = {}
        self._busy_ns: Counter[str] = Counter()
        self._at_ns = clock()
        self._hinted: set[str] = set()

    async def run(
        self,
        interval_s: float = INTERVAL_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> NoReturn:
        """Review all models every `interval_s` seconds, until cancelled."""
        while True:
            await sleep(interval_s)
            try:
                self.review()
            except Exception:
                log.exception("internal error: the models' last minute could not be looked at")

    def review(self) -> None:
        """Look at the time since the last review, and log what is wrong."""
        now_ns = self._clock()
        lasted_ns, self._at_ns = max(1, now_ns - self._at_ns), now_ns
        busy_ns: Counter[str] = Counter()
        for model in self._models:
            busy_ns.update(model.telemetry.busy_ns(now_ns))
        spent_ns, self._busy_ns = busy_ns - self._busy_ns, busy_ns
        observed = {model.model: model for model in self._observe().models}
        counted, self._before = self._before, {}
        for model in self._models:
            now, before = _counts(model.telemetry), counted.get(model.telemetry, _Counts())
            self._before[model.telemetry] = now
            if model.key not in observed:
                continue
            # Batches of several models on a device may overlap.
            devices = model.telemetry.busy_ns(now_ns)
            busy = max((min(1.0, spent_ns[name] / lasted_ns) for name in devices), default=0.0)
            _review_refusals(observed[model.key], before, now, busy)
            if model.key not in self._hinted and busy >= HINT_BUSY_SHARE:
                self._review_lengths(model, observed[model.key].shapes, before, now)

    def _review_lengths(
        self, model: ReviewedModel, shapes: Sequence[Shapes], before: _Counts, now: _Counts
    ) -> None:
        batches = now.batches - before.batches
        requests = now.batch_requests - before.batch_requests
        if model.padding is not None or len(shapes) < MANY_SHAPES or not batches:
            return
        if requests / batches >= FEW_REQUESTS:
            return
        try:
            axes = varying_axes(model.metadata.inputs, shapes)
        except ModelUnavailable:
            return
        if axes:
            self._hinted.add(model.key)
            log.warning(
                "%s: batches hold %.1f requests on average, because requests of different lengths cannot"
                " share one: %s. If the model allows padding, name these axes under `padding` with"
                " buckets (docs/shapes.md; `batcher buckets` proposes some)",
                model.key,
                requests / batches,
                ", ".join(axes),
            )


def _counts(telemetry: ModelTelemetry) -> _Counts:
    requests = telemetry.batch_requests
    return _Counts(
        sum(telemetry.requests.values()),
        Counter(telemetry.refused),
        requests.cumulative()[-1],
        requests.total,
    )


def _review_refusals(
    observed: ModelObservation, before: _Counts, now: _Counts, busy: float
) -> None:
    refused = now.refused - before.refused
    # A deadline shorter than a batch is its caller's, whatever the device does.
    del refused[RefusalCause.DEADLINE]
    count, ended = refused.total(), now.ended - before.ended
    if count <= REFUSED_SHARE * ended or busy >= BUSY_SHARE:
        return
    log.warning(
        "%s: %d of %d requests were refused for a prediction in the last minute, while its device was"
        " %.0f %% busy: %s. That should not be: load was not the reason. Batches are planned to take"
        " %.2f times as long as expected, the device is %.2f times as slow as when it was first measured,"
        " and a batch takes %.2f ms beyond its own time. Look at: %s; and at docs/running.md, Refused at low load",
        observed.model,
        count,
        ended,
        100 * busy,
        _by_cause(refused),
        observed.margin,
        observed.drift,
        observed.handling_ns / MILLISECOND,
        "; ".join(_WHAT_TO_LOOK_AT[cause] for cause, _ in refused.most_common()),
    )


def _by_cause(refused: Mapping[RefusalCause, int]) -> str:
    return ", ".join(f"{count} for {cause.value}" for cause, count in refused.items())


def varying_axes(inputs: Iterable[TensorSpec], shapes: Sequence[Shapes]) -> list[str]:
    """The axes in which these shapes differ: `TOKENS axis 1 (7 to 241)`. Axis 0 is the rows.

    `shapes` are those of requests: for each input in order, its axes after that of the rows.
    """
    found: list[str] = []
    for place, spec in enumerate(inputs):
        given = [each[place] for each in shapes if place < len(each) and each[place]]
        first_axis = len(spec.shape) - len(spec.inner)
        for axis, sizes in enumerate(zip(*given, strict=True), first_axis):
            if len(set(sizes)) > 1:
                found.append(f"{spec.name} axis {axis} ({min(sizes)} to {max(sizes)})")
    return found
