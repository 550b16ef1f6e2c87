"""Turns ONNX Runtime's errors into one plain line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import onnxruntime as ort

_MAX_LENGTH: Final = 300
_HEAD: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOADING: Final = re.compile(r"^Load model from .*? failed: ?")
_SOURCE_PLACE: Final = re.compile(
    r"/\S+\.(?:h|cc|cpp|cu|cuh):\d+ [^()]*(?:\(\))?\([^()]*\)(?: const)? ?"
)

_RULES: Final[list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]] = [
    (
        re.compile(r"Opset (\d+) is under development.*?domain (\S+) is till opset (\d+)"),
        lambda m: (
            f"needs operator set {m[1]} of {m[2]}, and onnxruntime {ort.__version__} supports up to "
            f"{m[3]}: use a newer onnxruntime, or export the model for operator set {m[3]}"
        ),
    ),
    (
        re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)"),
        lambda m: (
            f"needs IR version {m[1]}, and onnxruntime {ort.__version__} supports up to {m[2]}: use a "
            f"newer onnxruntime, or save the model with IR version {m[2]}"
        ),
    ),
    (
        re.compile(r"No Op registered for (\S+) with domain_version of (\d+)"),
        lambda m: (
            f"uses the operator {m[1]}, which onnxruntime {ort.__version__} does not have in "
            f"operator set {m[2]}"
        ),
    ),
    (
        re.compile(r"(\S+?)(?:\(-?\d+\))? is not a registered function/op"),
        lambda m: f"uses the operator {m[1]}, which onnxruntime {ort.__version__} does not have",
    ),
    (
        re.compile(r"Protobuf parsing failed|No graph was found in the protobuf"),
        lambda _: "is not a complete ONNX model: it is truncated, damaged or in another format",
    ),
]


_OUT_OF_MEMORY: Final = re.compile(
    r"Failed to allocate memory\b"
    r"|\bAllocateRaw\w*\b.*\b(?:failed|memory)\b"
    r"|Available memory of \d+ is smaller than requested bytes"
    r"|\bout of memory\b|\bbad_alloc\b|\bbad allocation\b|_ALLOC_FAILED\b",
    re.IGNORECASE,
)
"""What ONNX Runtime's arena, CUDA, cuBLAS and C++ say where there is no memory."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether there is no memory for a model."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def load_problem(error: Exception) -> str:
    """What is wrong with a model file, as the end of a sentence that begins with its path."""
    text = " ".join(str(error).split())
    for pattern, say in _RULES:
        match = pattern.search(text)
        if match:
            return say(match)
    return f"could not be loaded by onnxruntime {ort.__version__}: {one_line(error)}"


def one_line(error: Exception) -> str:
    """The error's message on one line, without error code and source location, shortened."""
    text = _HEAD.sub("", " ".join(str(error).split()))
    text = _SOURCE_PLACE.sub("", _LOADING.sub("", text)).strip() or type(error).__name__
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."
