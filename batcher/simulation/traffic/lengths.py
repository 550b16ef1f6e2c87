"""The lengths of variable axes in a recorded log, from which buckets can be proposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from batcher.core.events import RequestArrived
from batcher.core.record import record
from batcher.errors import InputError
from batcher.journal import CodecError, Log


@record
class LoggedAxis:
    """An axis of an input (by its place in the model, from 0) of a model, by its name in events."""

    model: str
    input: int
    axis: int

    def __str__(self) -> str:
        return f"--model {self.model} --input {self.input} --axis {self.axis}"


def logged_lengths(
    log: Log, report: Callable[[str, int], None] = lambda _what, _steps: None
) -> dict[LoggedAxis, Counter[int]]:
    """By axis (other than the batch axis): length -> how many rows of all requests had it.

    `report` is called with progress, in steps. A segment that cannot be read to its end is added to
    the log's faults, and counts up to there.
    """
    found: dict[LoggedAxis, Counter[int]] = {}
    for segment in log.segments:
        try:
            for step in segment.steps():
                for event in step.events:
                    if type(event) is RequestArrived:
                        _count(event, found)
        except CodecError as error:
            log.faults.append(f"{segment.name}: {error}")
        report("", segment.steps_count)
    return found


def _count(request: RequestArrived, found: dict[LoggedAxis, Counter[int]]) -> None:
    for place, shape in enumerate(request.shapes):
        for axis, length in enumerate(shape, 1):
            if length:
                key = LoggedAxis(request.model, place, axis)
                found.setdefault(key, Counter())[length] += request.rows


def the_axis(
    found: dict[LoggedAxis, Counter[int]],
    model: str | None = None,
    place: int | None = None,
    axis: int | None = None,
) -> Counter[int]:
    """The lengths of the one axis that matches `model`, `place` and `axis`; None matches any.

    Axes with one length are left out where others vary, and axes with equal lengths count as one.
    Raises `InputError` naming the axes that there are, if none or several match.
    """
    if not found:
        raise InputError("the log has no request of a model with variable axes")
    fitting = {
        key: counts
        for key, counts in found.items()
        if model in {None, key.model, key.model.rpartition("/")[0]}
        and place in {None, key.input}
        and axis in {None, key.axis}
    }
    if not fitting:
        raise InputError(f"the log has no such axis; choose from {_named(found)}")
    varying = {key: counts for key, counts in fitting.items() if len(counts) > 1} or fitting
    first, *others = varying
    if any(key.model != first.model or varying[key] != varying[first] for key in others):
        raise InputError(f"the log has several variable axes; choose one of {_named(varying)}")
    return varying[first]


def _named(axes: dict[LoggedAxis, Counter[int]]) -> str:
    return "; ".join(map(str, axes))
