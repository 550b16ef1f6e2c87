"""The first batches of an instance: they warm it up and give its first service times."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import field
from math import prod
from statistics import median
from time import monotonic_ns
from typing import TypeAlias

import numpy as np

from batcher.core.events import FailureCause, Profile, Shapes
from batcher.core.record import record
from batcher.errors import ModelLoadError
from batcher.executor import BatchResult, ModelMetadata
from batcher.runtime.dispatch import Executed, Slice
from batcher.runtime.layout import Layout, layout_of
from batcher.runtime.padding import Axis, Padding, PadValue, fill_value
from batcher.runtime.request import InferenceRequest
from batcher.runtime.rows import NO_BATCH_AXIS
from batcher.runtime.workers import Worker
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

log = logging.getLogger(__name__)

TIMED_BATCHES = 3
"""How often a batch of each size is timed, after one that is not."""

TIMED_NS = 1_000_000_000
"""A size that has taken so long already is not timed again."""

BUCKETS_NS = 10_000_000_000
"""The warm-up of a padded model begins with no further bucket after this; what is left out is
estimated from the others."""


DEFAULT_LENGTH = 16
"""The length of variable axes where `warmup.length` does not say another."""

WarmupValue: TypeAlias = PadValue | tuple[PadValue, ...]
"""What an input is warmed up with: one value for all elements, or the values of a row."""


@record
class WarmupPlan:
    """Rows of each warm-up batch, and the length to give to variable axes that are not padded."""

    batch_sizes: tuple[int, ...]
    length: int
    inputs: Mapping[str, WarmupValue] = field(default_factory=dict)
    """Input -> its values; the others get zeros or empty texts, and optional ones are absent."""


async def warm_up(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
) -> Profile:
    """Execute batches of every size: the first warms up, the others are timed.

    The time of a size is the median, from handing the batch over until its result is back, as the
    scheduler will see it. Raises `ModelLoadError` when a batch fails, or when `plan.inputs` do not
    fit the model.
    """
    _check_length(model, metadata.inputs, plan, frozenset())
    sample = Sample(model, metadata.inputs, plan.inputs)
    shapes = plain_shapes(metadata.inputs, plan.length)
    return await _warm_up(worker, sample, layout, plan.batch_sizes, shapes, TIMED_NS)


async def warm_up_buckets(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
    padding: Padding,
) -> tuple[tuple[Shapes, Profile], ...]:
    """The same for the buckets of a padded model, within `BUCKETS_NS` and one bucket more.

    The largest and the smallest come first: what lies between them can be estimated best.
    """
    padded = frozenset((rule.input, rule.axis) for rule in padding.rules.axes)
    _check_length(model, metadata.inputs, plan, padded)
    sample = Sample(model, metadata.inputs, plan.inputs)
    buckets = padding.warm_buckets(plan.length, plan.inputs)
    order = [*buckets[:-2:-1], *buckets[:-1]]
    timed_ns = TIMED_NS // len(order)
    profiles: list[tuple[Shapes, Profile]] = []
    began_ns = monotonic_ns()
    for bucket in order:
        if not plan.batch_sizes or monotonic_ns() - began_ns >= BUCKETS_NS:
            break
        profile = await _warm_up(worker, sample, layout, plan.batch_sizes, bucket, timed_ns)
        profiles.append((bucket, profile))
    return tuple(profiles)


async def _warm_up(
    worker: Worker,
    sample: Sample,
    layout: Layout,
    batch_sizes: Sequence[int],
    shapes: Shapes,
    timed_ns: int,
) -> Profile:
    profile: list[tuple[int, int]] = []
    inner: dict[str, tuple[int, tuple[int, ...]]] = {}
    for rows in batch_sizes:
        slices = [Slice(sample.request(rows, shapes), 0, rows)]
        took_ns: list[int] = []
        for repeat in range(1 + TIMED_BATCHES):
            began_ns = monotonic_ns()
            executed = await run_batch(worker, slices, layout)
            executed.release()
            if executed.result is None:
                raise ModelLoadError(sample.failed(rows, executed.failure, executed.cause))
            refused = executed.result.row_errors
            if refused and not repeat:
                log.warning("%s", sample.failed(rows, next(iter(refused.values()))))
            if layout.batched and not repeat:
                sample.check_rows(rows, executed.result, inner)
            if repeat:
                took_ns.append(monotonic_ns() - began_ns)
                if sum(took_ns) >= timed_ns:
                    break
        profile.append((rows, int(median(took_ns))))
    return tuple(profile)


async def run_batch(
    worker: Worker, slices: Sequence[Slice], layout: Layout, *, alone: bool = False
) -> Executed:
    """Execute one batch and wait for its end; whoever gets the result owes its release."""
    future: asyncio.Future[Executed] = asyncio.get_running_loop().create_future()

    def done(executed: Executed) -> None:
        if future.cancelled():
            executed.release()
        else:
            future.set_result(executed)

    worker.run(slices, layout, done, alone=alone)
    return await future


async def run_canary(
    worker: Worker, metadata: ModelMetadata, plan: WarmupPlan, model: str, padding: Padding | None
) -> str:
    """Execute the smallest batch of the warm-up beside no other; returns why it failed, or nothing."""
    sample = Sample(model, metadata.inputs, plan.inputs)
    if padding is None:
        shapes = plain_shapes(metadata.inputs, plan.length)
    else:
        shapes = padding.warm_buckets(plan.length, plan.inputs)[0]
    rows = min(plan.batch_sizes)
    slices = [Slice(sample.request(rows, shapes), 0, rows)]
    executed = await run_batch(worker, slices, layout_of(metadata), alone=True)
    executed.release()
    return "" if executed.result is not None else executed.failure


def plain_shapes(specs: Sequence[TensorSpec], length: int) -> Shapes:
    """The shapes of a request whose every variable axis has this length."""
    return tuple(tuple(length if size < 0 else size for size in spec.inner) for spec in specs)


def _check_length(
    model: str, specs: Sequence[TensorSpec], plan: WarmupPlan, padded: frozenset[Axis]
) -> None:
    """Raise `ModelLoadError` where a length is asked for and no axis of the warm-up takes one."""
    takes = any(
        size < 0 and (spec.name, axis) not in padded
        for spec in specs
        if not spec.optional or spec.name in plan.inputs
        for axis, size in enumerate(spec.inner, len(spec.shape) - len(spec.inner))
    )
    if plan.batch_sizes and plan.length != DEFAULT_LENGTH and not takes:
        raise ModelLoadError(
            f"model {model!r}: warmup.length: got {plan.length}; allowed: where an axis of an input"
            " varies that is not padded; here none does, so leave it out"
        )


class Sample:
    """Requests that a model is warmed up or measured with.

    An input has the value that `values` gives it, else zeros or empty texts; an optional input that
    `values` does not name is absent. Raises `ModelLoadError` naming every value that does not fit.
    """

    def __init__(
        self, model: str, specs: Sequence[TensorSpec], values: Mapping[str, WarmupValue]
    ) -> None:
        self._model = model
        self._specs = specs
        self._given = values
        self._elements: dict[str, Array] = {}
        names = [spec.name for spec in specs]
        problems = [
            f"warmup.inputs: got {name!r}; allowed: {', '.join(names)}"
            for name in values
            if name not in names
        ]
        for spec in specs:
            try:
                self._elements[spec.name] = _elements(spec, values.get(spec.name))
            except ValueError as error:
                got = values[spec.name]
                problems.append(f"warmup.inputs.{spec.name}: got {got!r}; allowed: {error}")
        if problems:
            raise ModelLoadError(f"model {model!r}: {'; '.join(problems)}")

    def request(self, rows: int, shapes: Shapes) -> InferenceRequest:
        """A request of that many equal rows, its inputs of those shapes."""
        inputs = {
            spec.name: Tensor(spec.datatype, self._array(spec, rows, shape))
            for spec, shape in zip(self._specs, shapes, strict=True)
            if not spec.optional or spec.name in self._given
        }
        return InferenceRequest(self._model, inputs, arrival_ns=0)

    def check_rows(
        self, rows: int, result: BatchResult, inner: dict[str, tuple[int, tuple[int, ...]]]
    ) -> None:
        """Hold the shape of a row's answer against that in batches of other sizes, all rows equal.

        `inner` is what they were. Raises `ModelLoadError` where it depends on how many rows there
        are: then a row's answer tells of others in its batch, which are a stranger's.
        """
        for name, array in result.outputs.items():
            before, shape = inner.setdefault(name, (rows, array.shape[1:]))
            if shape != array.shape[1:]:
                raise ModelLoadError(
                    f"{self._model}: output {name!r} has shape {[before, *shape]} for {before} rows"
                    f" and {list(array.shape)} for {rows} equal ones, so a row's answer depends on"
                    f" the other rows of its batch: set {NO_BATCH_AXIS}"
                )

    def failed(self, rows: int, why: str, cause: FailureCause = FailureCause.UNKNOWN) -> str:
        """What to say of a warm-up batch that failed, and what helps where its values are at fault."""
        said = f"{self._model}: the warm-up batch of {rows} rows failed: {why}"
        if cause is FailureCause.DEVICE:
            return said
        of = "the values in warmup.inputs" if self._given else "zeros and empty texts"
        return (
            f"{said} (it held {of}; where these do not suit the model, give values in"
            " warmup.inputs, or skip the warm-up with warmup.batch_sizes: [])"
        )

    def _array(self, spec: TensorSpec, rows: int, shape: tuple[int, ...]) -> Array:
        row = np.resize(self._elements[spec.name], shape)
        if not spec.batched:
            return row
        return np.ascontiguousarray(np.broadcast_to(row, (rows, *shape)))


def _elements(spec: TensorSpec, value: WarmupValue) -> Array:
    """The values that fill a row, again and again. Raises ValueError that says what is allowed."""
    listed = value if isinstance(value, tuple) else (value,)
    row = spec.inner
    if min(row, default=0) >= 0 and len(listed) > max(1, prod(row)):
        raise ValueError(f"at most {prod(row)} values, one row of shape {list(row)}")
    array = np.empty(len(listed), DTYPES[spec.datatype])
    array[:] = [fill_value(each, spec.datatype) for each in listed]
    return array
