"""What a recorded log says of one model's load and of what its batches take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import RequestArrived, Shapes
from batcher.core.queueing.padding import Buckets
from batcher.core.settings import PaddedAxis
from batcher.core.times import NEVER_NS
from batcher.errors import InputError
from batcher.journal import Segment
from batcher.simulation.engine.profile import QUANTILES, ModelProfile, SizeProfile
from batcher.simulation.logs.closed import is_closed_loop
from batcher.simulation.logs.generations import model_of
from batcher.simulation.logs.learned import Learned, Sampler
from batcher.simulation.logs.stretch import Samples, Stretch, stretches
from batcher.simulation.logs.whatif import WhatIf
from batcher.simulation.traffic.arrivals import Recorded
from batcher.simulation.traffic.workload import Mix


@dataclass(frozen=True, slots=True)
class LoggedLoad:
    """The requests of one model, and what batches of it took."""

    arrivals: Recorded
    """Pauses between parts of the log are left out."""
    rows: Mix[int]
    lengths: Counter[int] | None
    """The longest padded axis of each request; None where nothing is padded."""
    profile: ModelProfile | None
    """None where no batch was recorded."""
    largest: int
    """Rows of the largest batch that was recorded: times of larger ones are guessed from the slope."""
    closed: bool
    """Whether callers waited for their answers, as `is_closed_loop` says."""


def logged_load(segments: Sequence[Segment], key: str, device: str = "cpu") -> LoggedLoad:
    """The load of the model `key`, `name/version`. Raises `InputError` where there is none.

    The requests are those of all its generations, the times of batches those of the newest one.
    """
    samples = Samples(1)
    found = list(stretches(segments, NEVER_NS, samples))
    learned = samples.learned([])
    times: list[int] = []
    requests: list[RequestArrived] = []
    padding: tuple[PaddedAxis, ...] = ()
    for stretch in found:
        mine = sorted(
            (request for request in stretch.requests if model_of(request.model) == key),
            key=lambda request: request.arrival_ns,
        )
        if mine:
            newest = mine[-1].model
            padding = stretch.settings[newest].padding if newest in stretch.settings else padding
            begins_ns = mine[0].arrival_ns - (times[-1] if times else 0)
            times += [request.arrival_ns - begins_ns for request in mine]
            requests += mine
    if not requests:
        asked = {model_of(request.model) for stretch in found for request in stretch.requests}
        raise InputError(
            f"the log has no request of {key}; it has those of {', '.join(sorted(asked)) or 'none'}"
        )
    rows = Counter(request.rows for request in requests)
    generations = list(dict.fromkeys(request.model for request in requests))
    executed = [each for each in generations if learned.batches.find((each, None, None))]
    newest = (executed or generations)[-1]
    return LoggedLoad(
        Recorded.of(np.array(times, np.float64) / SECOND),
        Mix.of(*((size, float(seen)) for size, seen in sorted(rows.items()))),
        Counter(_length(request.shapes, padding) for request in requests) if padding else None,
        _profile(learned, newest, device, _buckets(requests, padding)),
        learned.batches.largest((newest, None, None)),
        any(_closed(stretch, learned, key) for stretch in found),
    )


def _closed(stretch: Stretch, learned: Learned, key: str) -> bool:
    what_if = WhatIf(stretch, learned, frozenset((key,)))
    return what_if.requests > 0 and is_closed_loop(what_if.recorded())


def _length(shapes: Shapes, padding: Sequence[PaddedAxis]) -> int:
    """The longest padded axis of these shapes."""
    return max(
        (shapes[a.input][a.axis - 1] for a in padding if a.input < len(shapes) and shapes[a.input]),
        default=1,
    )


def _buckets(requests: Sequence[RequestArrived], padding: Sequence[PaddedAxis]) -> list[Shapes]:
    """The buckets that requests belonged to."""
    buckets = Buckets(padding)
    return (
        list(dict.fromkeys(buckets.of(request.shapes) for request in requests)) if padding else []
    )


def _profile(
    learned: Learned, key: str, device: str, buckets: Sequence[Shapes]
) -> ModelProfile | None:
    every = learned.batches.find((key, None, None))
    if every is None:
        return None
    name, _, version = model_of(key).rpartition("/")
    by_length: dict[int, dict[int, SizeProfile]] = {}
    for shapes in buckets:
        sampler = learned.batch(key, shapes, 0)
        if sampler is not None:
            by_length[max(max(shape, default=1) for shape in shapes)] = _sizes(sampler)
    last = by_length[max(by_length)] if by_length else _sizes(every)
    ordered = {length: by_length[length] for length in sorted(by_length)}
    return ModelProfile(name, version, "recorded", device, last, ordered)


def _sizes(sampler: Sampler) -> dict[int, SizeProfile]:
    """The times of powers of two and of the largest batch, from the curve through what was recorded."""
    most = len(sampler.curve) - 1
    found = {}
    for rows in sorted({*(1 << exponent for exponent in range(most.bit_length())), most}):
        ms = sampler.curve[rows] / MILLISECOND
        quantiles = {name: ms * sampler.quantile(share) for name, share in QUANTILES.items()}
        found[rows] = SizeProfile(1, ms, quantiles)
    return found
