"""Checks padding rules against a loaded model and turns them into its `Padding`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.padding_rules import Axis, PaddingRules, fill_value
from batcher.runtime.interface.row_axis import output_problems
from batcher.tensors import TensorSpec


def resolve_padding(model: str, rules: PaddingRules, metadata: ModelMetadata) -> Padding | None:
    """Return the padding of a model; None if nothing is padded.

    Raises `ModelLoadError`, which names the path of every rule that does not suit the model, with
    what is allowed, and every output whose axis 0 is not the batch axis.
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
    # Without padding there is nothing to trim.
    follows = _follows(rules, metadata, problems) if rules.axes and not problems else {}
    if problems:
        raise ModelLoadError(f"model {model!r}: {'; '.join(problems)}")
    return Padding(model, metadata.inputs, rules, values, follows) if rules.axes else None


def _axis_problems(rules: PaddingRules, metadata: ModelMetadata) -> Iterator[str]:
    """Rules for inputs or axes that the model does not have or that have a fixed length."""
    specs = {spec.name: spec for spec in metadata.inputs}
    for place, rule in enumerate(rules.axes):
        path = f"{rules.path}padding[{place}]"
        spec = specs.get(rule.input)
        if spec is None:
            yield f"{path}.input: got {rule.input!r}; allowed: {', '.join(specs)}"
        elif not spec.batched:
            yield f"{path}.input: got {rule.input!r}; allowed: an input with a batch axis"
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
    """Axes that are equally long in the model and would not be with these buckets."""
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
    """Rules for outputs or axes that the model does not have or that have a fixed length."""
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
    """Output -> (its axis, the index of the input, the input's axis) for each axis to trim.

    A variable output axis has the length of the input axis that the configuration names, else of
    the input axis with the same name in the model. Anything else is a problem, because guessing
    would trim replies wrongly.
    """
    places = {spec.name: place for place, spec in enumerate(metadata.inputs)}
    stated = {
        (rule.output, rule.axis): rule.like for rule in rules.outputs if rule.axis is not None
    }
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
            if (spec.name, axis) in stated:
                like = stated[spec.name, axis]
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
