"""Datatypes of the protocol and of PyTorch, and tensors that share memory with numpy arrays."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from batcher.executor import DTYPES, Array

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}
"""Datatype of the protocol -> dtype of PyTorch. BYTES has none."""

DATATYPES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""Dtype of PyTorch -> datatype of the protocol. Complex, quantized and other dtypes have none."""


class _Writable:
    """The memory of an array that is read-only, said to be writable.

    PyTorch knows no read-only tensors and warns of each array that is one. Nothing here writes to
    it, and whether a model did is asked after each batch (`changed`).
    """

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: Array) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def as_tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """A tensor in the array's own memory. An array of BF16 has raw bits (uint16)."""
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    tensor = torch.from_numpy(array)
    return tensor.view(dtype) if dtype is torch.bfloat16 else tensor


def changed(tensor: torch.Tensor) -> bool:
    """Whether something has written to a tensor since `as_tensor` made it."""
    return tensor._version != 0  # noqa: SLF001 - there is no other way to ask


def as_array(tensor: torch.Tensor) -> Array:
    """An array in the tensor's own memory, which is the CPU's; BF16 as raw bits (uint16)."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    array: Array = tensor.numpy()
    return array


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The numpy dtype of a tensor's array."""
    return DTYPES[DATATYPES[dtype]]
