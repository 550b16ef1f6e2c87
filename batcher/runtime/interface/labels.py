"""Reads `labels` files: the names of an output's classes, one per line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from batcher.core.record import record
from batcher.errors import ModelLoadError

MAX_LABELS_BYTES: Final = 16 * 1024**2
"""Bytes of the largest `labels` file: a million classes of sixteen characters."""


@record
class Labels:
    """The names of an output's classes, and the name of their file."""

    file: str
    names: tuple[bytes, ...]
    """The name of class 0, of class 1 and so on."""


def read_labels(model: str, path: Path) -> Labels:
    """The class names in a file.

    Raises `ModelLoadError` if it cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LABELS_BYTES + 1)
        content.decode()
    except OSError as error:
        raise ModelLoadError(
            f"model {model!r}: labels: {path} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"model {model!r}: labels: {path} is not UTF-8: {error}") from error
    if len(content) > MAX_LABELS_BYTES:
        raise ModelLoadError(
            f"model {model!r}: labels: {path} is too large; allowed: at most {MAX_LABELS_BYTES} bytes"
        )
    return Labels(path.name, tuple(content.splitlines()))
