"""Names of execution providers: short ones in the configuration, full ones in ONNX Runtime."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

import onnxruntime as ort

_SUFFIX: Final = "ExecutionProvider"


def short(name: str) -> str:
    """The short name of a provider: `cuda` for CUDAExecutionProvider."""
    return name.removesuffix(_SUFFIX).lower()


def full(name: str) -> str:
    """The full name of a provider, from either name. Raises `ValueError` with the known names."""
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
    """Return the name unchanged. Raises `ValueError` as `full` does."""
    full(name)
    return name
