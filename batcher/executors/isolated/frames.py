"""Messages in a stream of bytes: each comes after its length, and is msgpack.

Never pickle: what a child sends must not be able to run anything here.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

LENGTH: Final = struct.Struct("<I")

MAX_MESSAGE: Final = 8 * 1024 * 1024
"""Bytes of a message. The largest are errors of 65,536 rows, and the metadata of a model; tensors
beyond `INLINE` travel in the arena."""


class FrameError(ValueError):
    """These bytes are no message."""


def frame(message: list[Any]) -> bytes:
    """A message as bytes. Raises `TypeError`, `ValueError` or `OverflowError` for a value that cannot be one."""
    packed: bytes = msgpack.packb(message)
    if len(packed) > MAX_MESSAGE:
        raise FrameError(f"a message of {len(packed)} bytes; allowed: {MAX_MESSAGE}")
    return LENGTH.pack(len(packed)) + packed


class Frames:
    """Takes bytes as they arrive, and gives whole messages. Tuples and lists arrive as lists."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """The messages that are complete now. Raises `FrameError` where one of them is none."""
        if self._rest:
            self._rest += data
            if not self._complete():
                return []
            data = bytes(self._rest)
            self._rest.clear()
        messages: list[list[Any]] = []
        view, start, end = memoryview(data), 0, len(data)
        while end - start >= LENGTH.size:
            length: int = LENGTH.unpack_from(data, start)[0]
            if length > MAX_MESSAGE:
                raise FrameError(f"a message of {length} bytes; allowed: {MAX_MESSAGE}")
            stop = start + LENGTH.size + length
            if stop > end:
                break
            messages.append(_unpacked(view[start + LENGTH.size : stop]))
            start = stop
        if start < end:
            self._rest += view[start:]
        return messages

    def _complete(self) -> bool:
        """Whether the first message is, or is too long to be one."""
        if len(self._rest) < LENGTH.size:
            return False
        length: int = LENGTH.unpack_from(self._rest)[0]
        return length > MAX_MESSAGE or len(self._rest) >= LENGTH.size + length


def _unpacked(packed: memoryview) -> list[Any]:
    try:
        message: Any = msgpack.unpackb(packed, strict_map_key=False)
    except Exception as error:  # noqa: BLE001 - of many kinds, and the bytes are foreign
        raise FrameError(f"a message that is not msgpack: {type(error).__name__}") from None
    if type(message) is not list or not message or type(message[0]) is not int:
        raise FrameError("a message without a kind")
    return list(message)
