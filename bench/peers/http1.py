"""Reads the answers of one HTTP/1.1 connection."""

from __future__ import annotations

from dataclasses import dataclass


class BadAnswerError(ValueError):
    """The bytes are no HTTP/1.1 answer that this reader knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and whether another request may follow on its connection."""

    status: int
    body: bytes
    keep: bool


class AnswerReader:
    """Bytes in, one answer out each time one is whole. Bodies have a length or come in chunks."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def began(self) -> bool:
        """Whether a part of an answer is here."""
        return bool(self._data)

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once it is whole. Raises `BadAnswerError`."""
        self._data = data = self._data + data if self._data else data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        first, *lines = data[:head_end].split(b"\r\n")
        if not first.startswith(b"HTTP/1.1 ") or not first[9:12].isdigit():
            raise BadAnswerError(f"not an answer: {first[:40]!r}")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        start = head_end + 4
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            body = _chunks(data, start)
        else:
            length = headers.get(b"content-length", b"")
            if not length.isdigit():
                raise BadAnswerError("an answer without a length")
            stop = start + int(length)
            body = data[start:stop] if len(data) >= stop else None
        if body is None:
            return None
        self._data = b""
        return Answer(int(first[9:12]), body, headers.get(b"connection", b"").lower() != b"close")


def _chunks(data: bytes, at: int) -> bytes | None:
    """The body, or None where the last chunk is not here yet."""
    parts = []
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end].partition(b";")[0], 16)
        except ValueError:
            raise BadAnswerError(f"not a chunk's size: {data[at:end][:20]!r}") from None
        at = end + 2 + size + 2
        if len(data) < at:
            return None
        if not size:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
    return None
