"""Padding: what the configuration says of a model's variable axes, held against the model.

`PaddingRules` are the configuration's words. `resolve` holds them against what the executor says of
the model and gives a `Padding`: the axes as the scheduler takes them, and, for a batch's bucket, the
shapes, the values and the lengths of outputs that gathering and scattering need. Both are values:
other rules replace all of it in one step.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np

from batcher.config import ModelConfig
from batcher.core.events import Shapes
from batcher.core.queueing.padding import volume
from batcher.core.record import record
from batcher.core.settings import PaddedAxis
from batcher.errors import InvalidRequest, ModelLoadError
from batcher.executor import ModelMetadata
from batcher.runtime.rows import output_problems
from batcher.tensors import DTYPES, TensorSpec

PadValue: TypeAlias = bool | int | float | str | None

Axis: TypeAlias = tuple[str, int]
"""An input or output and one of its axes; 0 is the rows."""

MOST_WARM_BUCKETS: Final = 16
"""Buckets that an instance is warmed up with, where axes that vary apart make more of them."""


@record
class AxisRule:
    """An input's axis, what fills it up (None: zero, false, or empty text), and its buckets."""

    input: str
    axis: int
    value: PadValue
    buckets: tuple[int, ...]


@record
class OutputRule:
    """Which input axis an output's axis is as long as; `like` is None where its length is its own.

    `batched` says that its first axis is the rows; `axis` is None where only that is said.
    """

    output: str
    axis: int | None
    like: Axis | None
    batched: bool = False


@record
class PaddingRules:
    """What the configuration says of one model; `path` is where it stands, such as `models[0].`."""

    axes: tuple[AxisRule, ...]
    outputs: tuple[OutputRule, ...]
    path: str


NOTHING_PADDED: Final = PaddingRules((), (), "")


@record
class Padded:
    """One bucket in the terms of the executor.

    `shapes` are the axes of each input beside the rows and `values` what fills them up; `outputs`
    are the (axis, length) pairs that an output must have then.
    """

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Any]
    outputs: Mapping[str, tuple[tuple[int, int], ...]]


class Padding:
    """How one model is padded. Made by `resolve`."""

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorSpec],
        rules: PaddingRules,
        values: Mapping[str, Any],
        follows: Mapping[str, tuple[tuple[int, int, int], ...]],
    ) -> None:
        self.rules = rules
        self._model = model
        self._names = [spec.name for spec in inputs]
        self._specs = tuple(inputs)
        self._values = values
        self._follows = follows
        self._padded = [name in values for name in self._names]
        self.axes = tuple(
            PaddedAxis(self._names.index(rule.input), rule.axis, rule.buckets)
            for rule in rules.axes
        )
        """As the scheduler takes them."""

    def check(self, shapes: Shapes) -> None:
        """Raise `InvalidRequest` for a request that no bucket holds."""
        for axis in self.axes:
            shape = shapes[axis.input]
            if shape and shape[axis.axis - 1] > axis.buckets[-1]:
                raise InvalidRequest(
                    f"{self._model}: input {self._names[axis.input]!r} has length"
                    f" {shape[axis.axis - 1]} on axis {axis.axis},"
                    f" at most {axis.buckets[-1]} (padding, the largest bucket) can be served"
                )

    def of(self, bucket: Shapes) -> Padded:
        """What a batch of this bucket looks like."""
        return Padded(
            dict(zip(self._names, bucket, strict=True)),
            self._values,
            {
                output: tuple([(axis, bucket[i][at - 1]) for axis, i, at in axes if bucket[i]])
                for output, axes in self._follows.items()
            },
        )

    def cuts(self, shapes: Shapes) -> dict[str, tuple[slice, ...]]:
        """Output -> what of a padded answer's rows is the request's own, `shapes` being its own."""
        cuts: dict[str, tuple[slice, ...]] = {}
        for output, axes in self._follows.items():
            cut = [slice(None)] * (1 + max(axis for axis, _, _ in axes))
            for axis, place, at in axes:
                if shapes[place]:
                    cut[axis] = slice(shapes[place][at - 1])
            cuts[output] = tuple(cut)
        return cuts

    def elements(self, shapes: Shapes) -> int:
        """Elements of one row of the inputs that are padded."""
        return volume([s for s, counts in zip(shapes, self._padded, strict=True) if counts])

    def warm_buckets(self, length: int, given: Container[str] = ()) -> list[Shapes]:
        """Buckets to warm up with, the smallest first; other variable axes have `length`.

        Axes with equal buckets are taken to vary together. Optional inputs are absent but for those
        in `given`.
        """
        lists = list(dict.fromkeys(axis.buckets for axis in self.axes))
        # Millions, where many axes vary apart: those in between are never made.
        count = prod(map(len, lists))
        steps = min(count, MOST_WARM_BUCKETS) - 1
        places = [step * (count - 1) // steps for step in range(steps + 1)] if steps else [0]
        found = [self._shapes(_combination(lists, place), length, given) for place in places]
        found.sort(key=volume)
        return found

    def _shapes(
        self, lengths: Mapping[tuple[int, ...], int], length: int, given: Container[str]
    ) -> Shapes:
        shapes = [
            []
            if spec.optional and spec.name not in given
            else [length if size < 0 else size for size in spec.inner]
            for spec in self._specs
        ]
        for axis in self.axes:
            if shapes[axis.input]:
                shapes[axis.input][axis.axis - 1] = lengths[axis.buckets]
        return tuple(tuple(shape) for shape in shapes)


def _combination(lists: Sequence[tuple[int, ...]], place: int) -> dict[tuple[int, ...], int]:
    """List -> one of its elements: the combination at that place of `itertools.product`."""
    chosen: dict[tuple[int, ...], int] = {}
    for each in reversed(lists):
        place, at = divmod(place, len(each))
        chosen[each] = each[at]
    return chosen


def rules_of(config: ModelConfig, path: str) -> PaddingRules:
    """What the configuration says of a model's variable axes; `path` is where it says so."""
    return PaddingRules(
        tuple(AxisRule(p.input, p.axis, p.value, p.buckets) for p in config.padding),
        tuple(
            OutputRule(
                o.output,
                o.axis,
                None if o.like is None else (o.like.input, o.like.axis),
                batched=bool(o.batched),
            )
            for o in config.outputs
        ),
        path,
    )


def resolve(model: str, rules: PaddingRules, metadata: ModelMetadata) -> Padding | None:
    """Hold the rules against the model; None where nothing is padded.

    Raises `ModelLoadError` that names the path of every rule at fault, and what is allowed, and
    every output whose first axis is not the rows, unless a rule says that it is.
    """
    batched = [rule.output for rule in rules.outputs if rule.batched]
    problems = [
        *output_problems(metadata, batched, rules.path),
        *_axis_problems(rules, metadata),
        *_together_problems(rules, metadata),
    ]
    values: dict[str, Any] = {}
    specs = {spec.name: spec for spec in metadata.inputs}
    for place, rule in enumerate(rules.axes):
        spec = specs.get(rule.input)
        if spec is None:
            continue
        try:
            values[rule.input] = fill_value(rule.value, spec.datatype)
        except ValueError as error:
            problems.append(
                f"{rules.path}padding[{place}].value: got {rule.value!r}; allowed: {error}"
            )
    problems += _output_problems(rules, metadata)
    # Where nothing is padded, nothing is cut back.
    follows = _follows(rules, metadata, problems) if rules.axes and not problems else {}
    if problems:
        raise ModelLoadError(f"model {model!r}: {'; '.join(problems)}")
    return Padding(model, metadata.inputs, rules, values, follows) if rules.axes else None


def _axis_problems(rules: PaddingRules, metadata: ModelMetadata) -> Iterator[str]:
    """Inputs and axes that the model does not have, or that do not vary."""
    specs = {spec.name: spec for spec in metadata.inputs}
    for place, rule in enumerate(rules.axes):
        path = f"{rules.path}padding[{place}]"
        spec = specs.get(rule.input)
        if spec is None:
            yield f"{path}.input: got {rule.input!r}; allowed: {', '.join(specs)}"
        elif not spec.batched:
            yield f"{path}.input: got {rule.input!r}; allowed: an input that has rows"
        else:
            yield from _variable(f"{path}.axis", rule.axis, spec, "input")


def _variable(path: str, axis: int, spec: TensorSpec, what: str) -> Iterator[str]:
    allowed = [str(at) for at, size in enumerate(spec.shape) if at and size < 0]
    if str(axis) not in allowed:
        yield (
            f"{path}: got {axis}; allowed: an axis of {what} {spec.name!r} that varies"
            f" ({', '.join(allowed) or 'none does'}; its shape is {list(spec.shape)})"
        )


def _together_problems(rules: PaddingRules, metadata: ModelMetadata) -> Iterator[str]:
    """Axes that the model says are equally long, and that would not be so any more."""
    buckets = {(rule.input, rule.axis): rule.buckets for rule in rules.axes}
    named: dict[str, list[Axis]] = {}
    for spec in metadata.inputs:
        for axis, name in enumerate(spec.dims):
            if name is not None and (axis or not spec.batched):
                named.setdefault(name, []).append((spec.name, axis))
    for name, axes in named.items():
        if len({buckets.get(axis) for axis in axes}) > 1:
            those = ", ".join(f"{each} axis {axis}" for each, axis in axes)
            yield (
                f"{rules.path}padding: {those} are equally long ({name!r} in the model);"
                " allowed: to pad all of them, to the same buckets"
            )


def _output_problems(rules: PaddingRules, metadata: ModelMetadata) -> Iterator[str]:
    """Outputs and axes that the model does not have, or that do not vary."""
    outputs = {spec.name: spec for spec in metadata.outputs}
    inputs = {spec.name: spec for spec in metadata.inputs}
    for place, rule in enumerate(rules.outputs):
        path = f"{rules.path}outputs[{place}]"
        spec = outputs.get(rule.output)
        if spec is None:
            yield f"{path}.output: got {rule.output!r}; allowed: {', '.join(outputs)}"
            continue
        if rule.axis is not None:
            yield from _variable(f"{path}.axis", rule.axis, spec, "output")
        if rule.like is None:
            continue
        name, axis = rule.like
        if name not in inputs:
            yield f"{path}.like.input: got {name!r}; allowed: {', '.join(inputs)}"
        else:
            yield from _variable(f"{path}.like.axis", axis, inputs[name], "input")


def _follows(
    rules: PaddingRules, metadata: ModelMetadata, problems: list[str]
) -> dict[str, tuple[tuple[int, int, int], ...]]:
    """Output -> (its axis, the place of the input, the input's axis) of all that is cut back.

    An output's axis that varies is as long as the input axis that the configuration names, else as
    the one that has its name in the model. Guessing would cut answers wrongly, so anything else is
    a problem.
    """
    places = {spec.name: place for place, spec in enumerate(metadata.inputs)}
    told = {(rule.output, rule.axis): rule.like for rule in rules.outputs if rule.axis is not None}
    padded = {(rule.input, rule.axis) for rule in rules.axes}
    named: dict[str, Axis] = {}
    for spec in sorted(metadata.inputs, key=lambda spec: spec.optional):
        for axis, name in enumerate(spec.dims):
            if name is not None and (axis or not spec.batched):
                named.setdefault(name, (spec.name, axis))
    follows: dict[str, tuple[tuple[int, int, int], ...]] = {}
    for spec in metadata.outputs:
        found: list[tuple[int, int, int]] = []
        for axis, size in enumerate(spec.shape):
            if not axis or size >= 0:
                continue
            name = spec.dims[axis] if spec.dims else None
            if (spec.name, axis) in told:
                like = told[spec.name, axis]
            elif name is not None and name in named:
                like = named[name]
            else:
                problems.append(
                    f"{rules.path}outputs: output {spec.name!r} has the variable axis {axis}, and"
                    " the model does not say which input axis it is as long as; allowed:"
                    f" {{output: {spec.name}, axis: {axis}, like: {{input: ..., axis: ...}}}}, or"
                    " like: null where its length is its own"
                )
                continue
            if like in padded:
                assert like is not None  # noqa: S101 - padded holds axes
                found.append((axis, places[like[0]], like[1]))
        if found:
            follows[spec.name] = tuple(found)
    return follows


def fill_value(value: PadValue, datatype: str) -> Any:
    """The value as an element of that datatype. Raises ValueError that says what is allowed."""
    if datatype == "BYTES":
        if value is None or isinstance(value, str):
            return (value or "").encode()
        raise ValueError("text, for BYTES")
    dtype = DTYPES[datatype]
    number = 0 if value is None else value
    if datatype == "BOOL":
        if value is None or isinstance(value, bool):
            return bool(value)
        raise ValueError("true or false, for BOOL")
    if isinstance(number, (str, bool)):
        raise ValueError(f"a number, for {datatype}")  # noqa: TRY004 - the caller names the path
    if datatype == "BF16":
        return np.uint16(np.float32(number).view(np.uint32) >> np.uint32(16))
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            element = dtype.type(number)
        if np.isinf(element) and not np.isinf(number):
            raise ValueError(f"a number that {datatype} holds")
        return element
    limits = np.iinfo(dtype)
    if not isinstance(number, int) or not limits.min <= number <= limits.max:
        raise ValueError(f"a whole number from {limits.min} to {limits.max}, for {datatype}")
    return dtype.type(number)
