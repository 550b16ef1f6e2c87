"""The names of classes, one a line, as the configuration's `labels` files have them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from batcher.core.record import record
from batcher.errors import ModelLoadError

MAX_LABELS_BYTES: Final = 16 * 1024**2
"""The largest file of labels: a million classes of sixteen characters."""


@record
class Labels:
    """The names of an output's classes, and the name of the file that has them."""

    file: str
    names: tuple[bytes, ...]
    """That of class 0, of class 1 and so on."""


def read_labels(model: str, path: Path) -> Labels:
    """The lines of the file.

    Raises `ModelLoadError` for a file that cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LABELS_BYTES + 1)
        content.decode()
    except OSError as error:
        raise ModelLoadError(f"model {model!r}: labels: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"model {model!r}: labels: {path} is not UTF-8: {error}") from error
    if len(content) > MAX_LABELS_BYTES:
        raise ModelLoadError(
            f"model {model!r}: labels: {path} has more than {MAX_LABELS_BYTES} bytes"
        )
    return Labels(path.name, tuple(content.splitlines()))
