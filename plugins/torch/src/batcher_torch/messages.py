"""Turns PyTorch's errors into one plain line, and says what they mean."""

from __future__ import annotations

import re
from typing import Final

import torch

from batcher.errors import on_one_line

MAX_LENGTH: Final = 300
"""Characters of an error in a message of ours."""

_NO_MEMORY: Final = re.compile(
    r"can't allocate memory|\bout of memory\b|not enough memory|_ALLOC_FAILED\b|\bbad_alloc\b",
    re.IGNORECASE,
)
"""What PyTorch's allocators, CUDA, cuBLAS and C++ say where there is no memory."""

_DEVICE: Final = re.compile(
    r"\bCUDA error\b|\bCUDA driver error\b|\bCUBLAS_STATUS_|\bCUDNN_STATUS_|\bcuDNN error\b"
)
_ADVICE: Final = re.compile(
    r"(CUDA kernel errors might be asynchronously|For debugging consider|Compile with `TORCH_USE_CUDA"
    r"|Search for `cuda|If reserved but unallocated memory|See documentation for Memory).*"
)
"""Advice for developers behind the first sentences of an error."""

_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
_SCRIPT_FRAMES: Final = re.compile(
    r"^The following operation failed in the TorchScript interpreter\..*\b\w*(?:Error|Exception): "
)
_GUARD: Final = "Guard failed: "
_WRONG_VALUE: Final = (IndexError, ValueError, ZeroDivisionError)
_OUT_OF_RANGE: Final = re.compile(r"\bindex\b.*\bout of (?:range|bounds)\b")
"""What operators say of an index, and TorchScript of every error as a `RuntimeError`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory, on a device or on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))
    )


def cause_of(error: BaseException) -> str:
    """The cause of an `ExecutionError` for what a model raised.

    Values and lengths that a model refuses are the callers'. A broken device is believed only where
    the device says so.
    """
    if is_out_of_memory(error):
        return "memory"
    text = str(error)
    if isinstance(error, torch.AcceleratorError) or _DEVICE.search(text):
        return "device"
    if isinstance(error, _WRONG_VALUE) or text.startswith(_GUARD):
        return "input"
    if isinstance(error, RuntimeError) and _OUT_OF_RANGE.search(text.rstrip().rpartition("\n")[2]):
        return "input"
    return "unknown"


def one_line(error: BaseException) -> str:
    """The error's message on one line, without advice to developers, shortened."""
    text = " ".join(_STYLE.sub("", str(error)).split())
    text = _ADVICE.sub("", _SCRIPT_FRAMES.sub("", text)).strip()
    if text.startswith(_GUARD):
        condition = text.removeprefix(_GUARD)
        text = f"the program was exported for inputs of which this is true: {condition}"
    text = on_one_line(text) or type(error).__name__
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 3]}..."
