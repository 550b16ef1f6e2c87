"""A model's inputs and outputs: read from a program of `torch.export`, or from the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    OutputKind,
    TensorArgument,
)

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, TensorSpec
from batcher_torch.datatypes import DATATYPES
from batcher_torch.options import TensorOption

_NO_BATCH_AXIS: Final = "set batching.max_batch_size to 0 if the model has no batch axis"


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, with the batch axis first (-1).

    `rows` are the fewest and the most rows that a batch can have, 0 for no limit.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: tuple[int, int] = (1, 0)


@dataclass(frozen=True, slots=True)
class ExportedArguments:
    """What a program takes and returns, in its own order.

    `taken` has a spec for each tensor and any other value for a constant; `returned` has a spec for
    each tensor and None for what is none.
    """

    taken: tuple[Any, ...]
    returned: tuple[TensorSpec | None, ...]
    signature: Signature


def exported_arguments(
    program: Any, label: str, context: LoadContext, given: Sequence[str] = ()
) -> ExportedArguments:
    """What an exported program takes and returns; `given` are other names for its inputs.

    Raises `ModelLoadError`, which names the input or output.
    """
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    described: ExportGraphSignature = program.graph_signature
    rows = context.max_batch_size > 0
    taken: list[Any] = []
    arguments = [e.arg for e in described.input_specs if e.kind is InputKind.USER_INPUT]
    others = iter(given)
    for known, argument in zip(_input_names(program, arguments), arguments, strict=True):
        if isinstance(argument, ConstantArgument):
            taken.append(argument.value)
            continue
        name = next(others, known)
        if not isinstance(argument, TensorArgument):
            raise ModelLoadError(
                f"{label}: input {name!r} of the program is a number; allowed: tensors"
            )
        batched = rows and context.batched.get(name, True)
        what = f"{label}: input {name!r}"
        taken.append(_spec(name, nodes[argument.name], what, batched=batched))
    returned: list[TensorSpec | None] = []
    leaves = [each for each in described.output_specs if each.kind is OutputKind.USER_OUTPUT]
    for name, leaf in zip(_output_names(program, len(leaves)), leaves, strict=True):
        if not isinstance(leaf.arg, TensorArgument):
            returned.append(None)
            continue
        what = f"{label}: output {name!r}"
        returned.append(_spec(name, nodes[leaf.arg.name], what, batched=rows))
    inputs = tuple(each for each in taken if isinstance(each, TensorSpec))
    outputs = tuple(each for each in returned if each is not None)
    if not outputs:
        raise ModelLoadError(f"{label}: the program returns no tensor")
    limits = _rows(program, inputs, outputs, label) if rows else (1, 0)
    signature = Signature(_with_rows(inputs, rows), _with_rows(outputs, rows), limits)
    return ExportedArguments(tuple(taken), tuple(returned), signature)


def _input_names(program: Any, arguments: Sequence[Any]) -> list[str]:
    """The names of the inputs: those of the parameters of `forward`, if each is one tensor."""
    called = program.module_call_graph[0].signature
    names = list(getattr(called, "forward_arg_names", None) or ())
    whole = called is not None and all(
        spec.is_leaf() for part in called.in_spec.children() for spec in part.children()
    )
    if whole and len(names) == len(arguments):
        return names
    return [argument.name for argument in arguments]


def _output_names(program: Any, count: int) -> list[str]:
    """The names of what a program returns: keys of its dict, or numbers."""
    spec = program.call_spec.out_spec
    if issubclass(getattr(spec, "type", None) or object, dict):
        keys = [str(key) for key in spec.context]
        if len(keys) == count:
            return keys
    return ["output"] if count == 1 else [f"output_{place}" for place in range(count)]


def _spec(name: str, value: Any, what: str, *, batched: bool) -> TensorSpec:
    if not isinstance(value, torch.Tensor):
        raise ModelLoadError(f"{what} of the program is no tensor")
    datatype = DATATYPES.get(value.dtype)
    if datatype is None:
        raise ModelLoadError(
            f"{what} is of type {value.dtype}, which the inference protocol does not have; allowed: "
            f"{', '.join(DATATYPES.values())}"
        )
    if batched and not value.shape:
        raise ModelLoadError(
            f"{what} has no axes; the first must be the batch axis: declare an input without one, "
            f"{{input: ..., batched: false}} in inputs, or {_NO_BATCH_AXIS}"
        )
    axes: tuple[Any, ...] = tuple(value.shape)  # numbers of PyTorch's own where they vary
    shape = tuple(length if isinstance(length, int) else -1 for length in axes)
    dims = tuple(map(_axis_name, axes))
    return TensorSpec(name, datatype, shape, dims=dims if any(dims) else (), batched=batched)


def _axis_name(length: Any) -> str | None:
    """The name of an axis that varies by itself; axes of one name are equally long."""
    text = str(length)
    return text if not isinstance(length, int) and text.isidentifier() else None


def _rows(
    program: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], label: str
) -> tuple[int, int]:
    """The fewest and the most rows of the program's batch axis."""
    batched = [spec for spec in inputs if spec.batched]
    if not batched:
        raise ModelLoadError(
            f"{label}: no input has a batch axis, so there is nothing to batch: {_NO_BATCH_AXIS}"
        )
    fixed = {spec.name: spec.shape[0] for spec in batched}
    if len(set(fixed.values())) > 1:
        lengths = ", ".join(
            f"{name!r} {'varies' if length < 0 else f'is fixed to {length}'}"
            for name, length in fixed.items()
        )
        raise ModelLoadError(
            f"{label}: the first axis of every input must be the batch axis, but that of {lengths}: "
            "declare an input without one, {input: ..., batched: false} in inputs, or "
            f"{_NO_BATCH_AXIS}"
        )
    rows = batched[0].shape[0]
    for spec in outputs:
        if spec.shape[0] not in (-1, rows):
            raise ModelLoadError(
                f"{label}: output {spec.name!r} has shape {list(spec.shape)}; its first axis must be "
                f"the batch axis, as in the inputs: {_NO_BATCH_AXIS}"
            )
    if rows >= 0:
        return rows, rows
    ranges = [
        _range(program, spec.dims[0]) for spec in batched if spec.dims and spec.dims[0] is not None
    ]
    fewest = max((low for low, _ in ranges), default=1)
    most = min((high for _, high in ranges if high), default=0)
    return max(1, fewest), most


def _range(program: Any, axis: str) -> tuple[int, int]:
    for symbol, limits in program.range_constraints.items():
        if str(symbol) == axis:
            return _finite(limits.lower), _finite(limits.upper)
    return 1, 0


def _finite(bound: Any) -> int:
    """A bound as a number, 0 where there is none."""
    try:
        return int(bound)
    except (AttributeError, OverflowError, TypeError, ValueError):  # as infinities of sympy raise
        return 0


def _with_rows(specs: Sequence[TensorSpec], rows: bool) -> tuple[TensorSpec, ...]:
    if not rows:
        return tuple(replace(spec, batched=True) for spec in specs)
    return tuple(
        replace(spec, shape=(-1, *spec.shape[1:])) if spec.batched else spec for spec in specs
    )


def declared(
    context: LoadContext, kind: str, options: Sequence[TensorOption], why: str
) -> tuple[TensorSpec, ...]:
    """The specs of the option `kind`: `inputs` or `outputs`.

    Raises `ModelLoadError` for none (`why` says who does not know them), a name twice, a length of
    zero, or no batch axis where the model has one.
    """
    where = f"model {context.model!r}: option {kind}"
    if not options:
        raise ModelLoadError(f"{where}: got none; {why}: declare each with name, datatype, shape")
    specs: list[TensorSpec] = []
    for option in options:
        if any(spec.name == option.name for spec in specs):
            raise ModelLoadError(f"{where}: {option.name!r} is there twice")
        batched = context.batched.get(option.name, True) if kind == "inputs" else True
        shape = tuple(axis if isinstance(axis, int) else -1 for axis in option.shape)
        if context.max_batch_size and batched and shape[:1] != (-1,):
            raise ModelLoadError(
                f"{where}: the shape of {option.name!r} is {list(option.shape)}; allowed: the batch "
                "axis first, as in [-1, ...]"
            )
        if 0 in shape:
            raise ModelLoadError(
                f"{where}: the shape of {option.name!r} is {list(option.shape)}; allowed: lengths "
                "from 1, -1, or names"
            )
        names = tuple(axis if isinstance(axis, str) else None for axis in option.shape)
        dims = names if any(names) else ()
        specs.append(TensorSpec(option.name, option.datatype, shape, dims=dims, batched=batched))
    return tuple(specs)


def renamed(
    specs: Sequence[TensorSpec], options: Sequence[TensorOption], kind: str, label: str
) -> tuple[TensorSpec, ...]:
    """The specs of a program with the names that an option gives them and their axes, in the same order.

    Raises `ModelLoadError` where the option contradicts the program.
    """
    if not options:
        return tuple(specs)
    where = f"{label}: option {kind}"
    if len(options) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise ModelLoadError(f"{where}: got {len(options)}; the program has {len(specs)}: {names}")
    found = []
    for spec, option in zip(specs, options, strict=True):
        shape = tuple(axis if isinstance(axis, int) else -1 for axis in option.shape)
        if option.datatype != spec.datatype or shape != spec.shape:
            raise ModelLoadError(
                f"{where}: {option.name!r} is {option.datatype} {list(option.shape)}, and in the "
                f"program it is {spec.datatype} {list(spec.shape)} ({spec.name!r})"
            )
        axes = tuple(axis if isinstance(axis, str) else None for axis in option.shape)
        dims = axes if any(axes) else spec.dims
        found.append(replace(spec, name=option.name, dims=dims))
    if len({spec.name for spec in found}) < len(found):
        raise ModelLoadError(f"{where}: a name is there twice")
    return tuple(found)
