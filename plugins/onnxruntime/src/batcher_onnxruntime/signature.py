"""Reads a model's inputs and outputs from its session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import onnxruntime as ort

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, TensorSpec

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
_NO_NAMES: Final = ("", "?", "None")
"""Names that exporters give to every unknown axis."""

_NO_BATCH_AXIS: Final = "set batching.max_batch_size to 0 if the model has no batch axis"


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, with the batch axis first.

    `fixed_rows` is the length to which the model file fixes the batch axis, None if it may vary.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed_rows: int | None


def read_signature(session: Any, label: str, context: LoadContext) -> Signature:
    """The session's signature. Raises `ModelLoadError`, which names the input or output."""
    rows = context.max_batch_size > 0
    inputs = tuple(
        _spec(node, f"{label}: input {node.name!r}", rows and context.batched.get(node.name, True))
        for node in session.get_inputs()
    )
    outputs = tuple(
        _spec(node, f"{label}: output {node.name!r}", rows) for node in session.get_outputs()
    )
    if not rows:
        return Signature(inputs, outputs, None)
    if not inputs:
        raise ModelLoadError(
            f"{label}: the model has no inputs, so there is nothing to batch: {_NO_BATCH_AXIS}"
        )
    fixed = _fixed_rows([spec for spec in inputs if spec.batched], label)
    for spec in outputs:
        if spec.shape[0] not in (-1, fixed):
            raise ModelLoadError(
                f"{label}: output {spec.name!r} has shape {list(spec.shape)}; its first axis must be "
                f"the batch axis, as in the inputs: {_NO_BATCH_AXIS}"
            )
    return Signature(_with_row_axis(inputs), _with_row_axis(outputs), fixed)


def _spec(node: Any, what: str, batched: bool) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype == "BF16" and not hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        raise ModelLoadError(
            f"{what} is bfloat16, which the Python interface of onnxruntime {ort.__version__} does not take:"
            " use 1.21 or newer, or add a Cast to float or float16 to the model"
        )
    if datatype is None:
        raise ModelLoadError(
            f"{what} is of type {node.type}, which the inference protocol does not have; allowed: "
            f"{', '.join(_DATATYPES)}"
        )
    if batched and not node.shape:
        raise ModelLoadError(
            f"{what} has no axes (or does not say which); the first must be the batch axis: declare an "
            "input without one, {input: ..., batched: false} in inputs, or "
            f"{_NO_BATCH_AXIS}"
        )
    shape = tuple(length if isinstance(length, int) else -1 for length in node.shape)
    # An axis without a name is None; axes with the same name are equally long.
    names = tuple(
        name if isinstance(name, str) and name not in _NO_NAMES else None for name in node.shape
    )
    return TensorSpec(node.name, datatype, shape, dims=names if any(names) else (), batched=batched)


def _fixed_rows(inputs: Sequence[TensorSpec], label: str) -> int | None:
    """The length of the batch axis in the file, which must be equal in all inputs."""
    lengths = {spec.name: spec.shape[0] for spec in inputs}
    if len(set(lengths.values())) > 1:
        lengths_text = ", ".join(
            f"{name!r} " + ("varies" if length < 0 else f"is fixed to {length}")
            for name, length in lengths.items()
        )
        last = next(reversed([name for name, length in lengths.items() if length >= 0]))
        raise ModelLoadError(
            f"{label}: the first axis of every input must be the batch axis, but that of {lengths_text}: "
            f"declare an input without one, {{input: {last}, batched: false}} in inputs, or "
            f"{_NO_BATCH_AXIS}"
        )
    length = next(iter(lengths.values()), -1)
    return None if length < 0 else length


def _with_row_axis(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(spec, shape=(-1, *spec.shape[1:])) if spec.batched else spec for spec in specs
    )
