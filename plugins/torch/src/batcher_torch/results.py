"""What a model returned -> its outputs by name, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from batcher.errors import describe
from batcher.executor import ExecutionError, TensorSpec
from batcher_torch.datatypes import DATATYPES, TORCH_DTYPES

Picker = Callable[[Any], Mapping[str, Any]]
"""Takes what a model returned and gives its outputs by name."""

_FLOATS: Final = ("FP16", "FP32", "FP64", "BF16")


def by_place(names: Sequence[str | None]) -> Picker:
    """For an exported program: the leaves of what it returns, in its order; None for what is no output."""

    def pick(value: Any) -> Mapping[str, Any]:
        leaves = pytree.tree_leaves(value)
        return {name: leaf for name, leaf in zip(names, leaves, strict=True) if name is not None}

    return pick


def by_kind(names: Sequence[str]) -> Picker:
    """For other models: a mapping by its keys, a tuple or list in the order of `names`, or one tensor."""

    def pick(value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        if hasattr(value, "_fields") and set(names) <= set(value._fields):
            return {name: getattr(value, name) for name in names}
        if isinstance(value, (tuple, list)):
            if len(value) != len(names):
                raise ExecutionError(
                    f"the model returned {len(value)} values; declared are {len(names)} outputs: "
                    f"{', '.join(names)}"
                )
            return dict(zip(names, value, strict=True))
        if len(names) == 1:
            return {names[0]: value}
        raise ExecutionError(
            f"the model returned one {type(value).__name__}; declared are {len(names)} outputs: "
            f"{', '.join(names)}"
        )

    return pick


class Results:
    """Picks and checks the outputs of a batch.

    With `cast`, floating-point outputs are converted to the datatype that is declared: under
    autocast the model decides in which precision it returns them.
    """

    def __init__(
        self, outputs: Sequence[TensorSpec], pick: Picker, *, cast: bool, with_rows: bool
    ) -> None:
        self._outputs = {spec.name: spec for spec in outputs}
        self._with_rows = with_rows
        self._pick = pick
        self._cast = cast

    def of(self, value: Any, rows: int, wanted: frozenset[str] | None) -> dict[str, torch.Tensor]:
        """The outputs that are wanted, on the model's device. Raises `ExecutionError`, which names one."""
        try:
            found = self._pick(value)
        except ExecutionError:
            raise
        except Exception as error:
            raise ExecutionError(
                f"the model's outputs cannot be read: {describe(error)}"
            ) from error
        return {
            name: self._checked(spec, found, rows)
            for name, spec in self._outputs.items()
            if wanted is None or name in wanted
        }

    def _checked(self, spec: TensorSpec, found: Mapping[str, Any], rows: int) -> torch.Tensor:
        if spec.name not in found:
            there = ", ".join(map(str, found)) or "none"
            raise ExecutionError(f"the model returned no output {spec.name!r}; returned: {there}")
        tensor = found[spec.name]
        if not isinstance(tensor, torch.Tensor):
            raise ExecutionError(
                f"output {spec.name!r} is of type {type(tensor).__name__}; allowed: a tensor"
            )
        expected = TORCH_DTYPES[spec.datatype]
        if tensor.dtype is not expected:
            datatype = DATATYPES.get(tensor.dtype, str(tensor.dtype))
            if not (self._cast and spec.datatype in _FLOATS and datatype in _FLOATS):
                raise ExecutionError(
                    f"output {spec.name!r} is {datatype}; declared is {spec.datatype}"
                )
            tensor = tensor.to(expected)
        if tensor.layout is not torch.strided:
            raise ExecutionError(
                f"output {spec.name!r} is {tensor.layout}; allowed: a dense tensor"
            )
        shape = (rows, *spec.shape[1:]) if self._with_rows else spec.shape
        fits = len(shape) == tensor.ndim and all(
            want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ExecutionError(
                f"output {spec.name!r} has shape {list(tensor.shape)}; declared is "
                f"{list(spec.shape)}, and the batch has {rows} rows"
            )
        return tensor
