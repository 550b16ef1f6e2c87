"""Reads the lines of a text file, and chooses queries for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT = Path(__file__).parents[2] / "docs" / "demo.txt"
"""320 sentences on sixteen subjects."""

DEFAULT_QUERIES = (
    "how can I rescue old bread?",
    "two processes stuck waiting for each other",
    "is it too late to learn an instrument?",
    "my plants look pale",
    "employees demanding higher wages",
)
"""Queries for the default document; their nearest lines have hardly a word in common with them."""

OWN_QUERIES = 4
"""The number of lines that serve as queries in other documents."""
_MOST_BYTES = 64 * 1024 * 1024


class DocumentError(Exception):
    """The file cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Document:
    """The distinct lines of a file that contain a letter or a digit, in order."""

    path: Path
    lines: list[str]
    left_out: int
    """The number of lines that were left out."""

    def queries(self) -> list[str]:
        """The default queries: those of the default document, else some lines of the file."""
        if self.path.resolve() == DEFAULT.resolve():
            return list(DEFAULT_QUERIES)
        # Neither very short lines nor whole paragraphs make good queries.
        telling = [line for line in self.lines if 4 <= len(line.split()) <= 30] or self.lines
        step = max(1, len(telling) // OWN_QUERIES)
        return telling[step // 2 :: step][:OWN_QUERIES]


def read(path: Path, most: int) -> Document:
    """The first `most` lines of a UTF-8 text file. Raises DocumentError."""
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise DocumentError(f"{path} is larger than {_MOST_BYTES >> 20} MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise DocumentError(f"{path} is not text: it holds zero bytes")
    stripped = (line.strip() for line in text.splitlines())
    lines = list(dict.fromkeys(line for line in stripped if any(map(str.isalnum, line))))
    if not lines:
        raise DocumentError(f"{path} has no line with a letter or a digit in it")
    return Document(path, lines[:most], max(0, len(lines) - most))
