"""Page-locked memory for inputs: a GPU copies from it directly, without a staging copy of the driver.

ONNX Runtime's Python interface gives none, so ordinary memory is registered with the CUDA runtime that
onnxruntime-gpu has loaded (`cudaHostRegister`), and unregistered before it is freed.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
from math import prod
from typing import Any, Final, Protocol

import numpy as np

from batcher.executor import Array

_log = logging.getLogger(__name__)

_LIBRARIES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_PORTABLE: Final = 1
"""cudaHostRegisterPortable: page-locked for every device of the process."""


class CudaRuntime(Protocol):
    """The two calls of the CUDA runtime that are used; each returns 0 if it succeeded."""

    def cudaHostRegister(self, address: Any, nbytes: Any, flags: Any) -> int:  # noqa: N802, D102
        ...

    def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802, D102
        ...


def cuda_runtime() -> CudaRuntime | None:
    """The CUDA runtime of this process; None where there is none."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
            library.cudaHostUnregister.argtypes = [ctypes.c_void_p]
        except (OSError, AttributeError):
            continue
        return library  # type: ignore[return-value]  # its functions are found by name
    return None


class _Pages(mmap.mmap):
    """Pages of their own that are unregistered just before they are freed."""

    registered_with: CudaRuntime | None = None
    address = 0

    def __del__(self) -> None:
        if self.registered_with is not None:
            self.registered_with.cudaHostUnregister(self.address)


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any], runtime: CudaRuntime | None) -> Array:
    """An array in page-locked memory; in ordinary memory where there is no runtime, or no more of it."""
    nbytes = prod(shape) * dtype.itemsize
    if runtime is None or not nbytes:
        return np.empty(shape, dtype)
    pages = _Pages(-1, nbytes)
    array: Array = np.frombuffer(pages, dtype, prod(shape)).reshape(shape)
    code = runtime.cudaHostRegister(array.ctypes.data, nbytes, _PORTABLE)
    if code:
        _log.warning("%d bytes of inputs are not page-locked: CUDA error %d", nbytes, code)
        return np.empty(shape, dtype)
    pages.address, pages.registered_with = array.ctypes.data, runtime
    return array
