"""Inputs and outputs that the configuration declares, for neighbors that do not say what they take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, Options, TensorSpec

__all__ = ["TensorOption", "declared"]


class TensorOption(Options):
    """One input or output, as clients see it in the model's metadata."""

    name: Annotated[str, Field(strict=True, min_length=1)]
    """Its name."""
    datatype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
        "FP16", "FP32", "FP64", "BF16", "BYTES",
    ]  # fmt: skip
    """Its datatype in the Open Inference Protocol."""
    shape: tuple[Annotated[int, Field(strict=True, ge=-1)], ...]
    """Its axes, the batch axis (-1) first; -1 is an axis whose length varies."""
    optional: bool = False
    """Whether a request may leave it out (inputs alone)."""


def declared(
    context: LoadContext, kind: str, options: tuple[TensorOption, ...]
) -> tuple[TensorSpec, ...]:
    """The specs of `options`; `kind` is the option that has them: `inputs` or `outputs`.

    Raises `ModelLoadError` for none, a name twice, a length of zero, or no batch axis where the model has one.
    """
    where = f"model {context.model!r}: option {kind}"
    if not options:
        raise ModelLoadError(
            f"{where}: got none; the server does not say what they are: declare each"
        )
    specs = []
    seen: set[str] = set()
    for option in options:
        if option.name in seen:
            raise ModelLoadError(f"{where}: {option.name!r} is there twice")
        seen.add(option.name)
        batched = context.batched.get(option.name, True) if kind == "inputs" else True
        if context.max_batch_size and batched and option.shape[:1] != (-1,):
            raise ModelLoadError(
                f"{where}: the shape of {option.name!r} is {list(option.shape)}; allowed: the batch"
                f" axis first, as in [-1, ...]"
            )
        if 0 in option.shape:
            raise ModelLoadError(
                f"{where}: the shape of {option.name!r} is {list(option.shape)}; allowed: lengths"
                " from 1, or -1"
            )
        specs.append(
            TensorSpec(option.name, option.datatype, option.shape, option.optional, batched=batched)
        )
    return tuple(specs)
