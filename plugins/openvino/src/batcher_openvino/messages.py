"""Turns OpenVINO's errors into one plain line."""

from __future__ import annotations

import re
from typing import Final

_MAX_LENGTH: Final = 300
_SOURCE: Final = re.compile(r"^Exception from \S+:\d+:$|^Check '.*' failed at \S+:\d+:$")
_OUT_OF_MEMORY: Final = re.compile(
    r"\bbad_alloc\b|\bout of memory\b|CL_OUT_OF_(?:RESOURCES|HOST_MEMORY)|OUT_OF_DEVICE_MEMORY"
    r"|CL_MEM_OBJECT_ALLOCATION_FAILURE|[Ee]xceeded max size of memory|[Cc]annot allocate memory",
)
"""What C++, OpenCL, Level Zero and OpenVINO's GPU plugin say where there is no memory."""
_DEVICE: Final = re.compile(
    r"\bCL_[A-Z_]+|\bZE_RESULT_ERROR|\[GPU\]|DEVICE_LOST|\bclFlush\b|\bclFinish\b"
)
_INPUT: Final = re.compile(
    r"ParameterMismatch|incompatible|Shape inference|While validating node|shape_infer"
)


def one_line(error: BaseException) -> str:
    """The error's message on one line, without places in OpenVINO's source, shortened."""
    lines = [line.strip() for line in str(error)[: 20 * _MAX_LENGTH].splitlines()]
    text = " ".join(" ".join(line for line in lines if line and not _SOURCE.match(line)).split())
    text = text or type(error).__name__
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def cause_of(error: BaseException) -> str:
    """The cause of an `ExecutionError`."""
    if is_out_of_memory(error):
        return "memory"
    text = str(error)
    if _DEVICE.search(text):
        return "device"
    return "input" if _INPUT.search(text) else "unknown"
