"""Reads a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, TensorSpec

_DATATYPES: Final = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
    "bf16": "BF16",
}
"""OpenVINO's names of element types -> datatypes of the protocol."""

_NO_BATCH_AXIS: Final = "set batching.max_batch_size to 0 if the model has no batch axis"


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, with the batch axis first, in the order of the model's ports.

    `fixed_rows` is the length to which the file fixes the batch axis, None if it may vary.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed_rows: int | None


def read_signature(model: Any, label: str, context: LoadContext) -> Signature:
    """The signature of an `openvino.Model`. Raises `ModelLoadError`, which names the input or output."""
    rows = context.max_batch_size > 0
    inputs = tuple(
        _spec(port, place, "input", label, context.batched if rows else None)
        for place, port in enumerate(model.inputs)
    )
    outputs = tuple(
        _spec(port, place, "output", label, {} if rows else None)
        for place, port in enumerate(model.outputs)
    )
    if not rows:
        return Signature(inputs, outputs, None)
    with_rows = [spec for spec in inputs if spec.batched]
    if not with_rows:
        raise ModelLoadError(f"{label}: no input has a batch axis: {_NO_BATCH_AXIS}")
    fixed = _fixed_rows(with_rows, label)
    if fixed is not None and fixed < context.max_batch_size:
        raise ModelLoadError(
            f"{label}: the model file fixes the first axis to {fixed}, so a batch can have at most "
            f"{fixed} rows, and max_batch_size is {context.max_batch_size}: set "
            f"batching.max_batch_size to {fixed}, or convert the model with a variable first axis; "
            f"{_NO_BATCH_AXIS}"
        )
    for spec in outputs:
        if spec.shape[0] not in (-1, fixed):
            raise ModelLoadError(
                f"{label}: output {spec.name!r} has shape {list(spec.shape)}; its first axis must be "
                f"the batch axis, as in the inputs: {_NO_BATCH_AXIS}"
            )
    return Signature(_with_row_axis(inputs), _with_row_axis(outputs), fixed)


def _spec(port: Any, place: int, kind: str, label: str, batched: Any) -> TensorSpec:
    """`batched` is what the configuration says of inputs; None for a model without a batch axis."""
    # A tensor may have several names, in no order; a model need not name any.
    name = min(port.names, key=lambda each: (len(each), each), default=f"{kind}_{place}")
    what = f"{label}: {kind} {name!r}"
    element = port.element_type.get_type_name()
    if element not in _DATATYPES:
        raise ModelLoadError(
            f"{what} is of type {element}, which this executor does not take; allowed: "
            f"{', '.join(_DATATYPES)}"
        )
    axes = port.partial_shape
    if axes.rank.is_dynamic:
        raise ModelLoadError(f"{what} has a variable number of axes; allowed: a fixed one")
    shape = tuple(-1 if axis.is_dynamic else axis.get_length() for axis in axes)
    with_rows = batched is not None and batched.get(name, True)
    if with_rows and not shape:
        raise ModelLoadError(
            f"{what} has no axes; the first must be the batch axis: declare an input without one, "
            f"{{input: {name}, batched: false}} in inputs, or {_NO_BATCH_AXIS}"
        )
    return TensorSpec(name, _DATATYPES[element], shape, batched=with_rows)


def _fixed_rows(inputs: Sequence[TensorSpec], label: str) -> int | None:
    """The length of the batch axis in the file, which must be equal in all inputs."""
    lengths = {spec.name: spec.shape[0] for spec in inputs}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(
            f"{name!r} " + ("varies" if length < 0 else f"is fixed to {length}")
            for name, length in lengths.items()
        )
        last = next(reversed([name for name, length in lengths.items() if length >= 0]))
        raise ModelLoadError(
            f"{label}: the first axis of every input must be the batch axis, but that of {shown}: "
            f"declare an input without one, {{input: {last}, batched: false}} in inputs, or "
            f"{_NO_BATCH_AXIS}"
        )
    length = next(iter(lengths.values()))
    return None if length < 0 else length


def _with_row_axis(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(spec, shape=(-1, *spec.shape[1:])) if spec.batched else spec for spec in specs
    )
