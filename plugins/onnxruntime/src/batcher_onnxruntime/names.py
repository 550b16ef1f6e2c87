"""Names of execution providers: the short ones of the configuration, and ONNX Runtime's own."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

import onnxruntime as ort

_SUFFIX: Final = "ExecutionProvider"


def short(name: str) -> str:
    """The name as the configuration has it: `cuda` for CUDAExecutionProvider."""
    return name.removesuffix(_SUFFIX).lower()


def full(name: str) -> str:
    """ONNX Runtime's name of a provider that has either. Raises ValueError: what is allowed."""
    known: dict[str, str] = {
        short(full): full for full in (*ort.get_all_providers(), *ort.get_available_providers())
    }
    found = known.get(short(name)) or known.get(name.lower())
    if found is None:
        hint = get_close_matches(name.lower(), known, n=1)
        guess = f" (did you mean {hint[0]}?)" if hint else ""
        raise ValueError(f"{', '.join(known)}{guess}")
    return found


def checked(name: str) -> str:
    """The name as it is. Raises ValueError as `full` does."""
    full(name)
    return name
