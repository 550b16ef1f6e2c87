"""Header blocks (HPACK, RFC 7541): read with a table that stays empty, written without one.

The server asks for a table of size 0, so that once a client has heard of it each of its blocks
stands for itself: `Blocks.decode` then only walks over the fields, and looks each one up among those
it has seen. All that comes before, and what needs a table, `hpack` reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from hpack import Decoder, HeaderTuple, HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Header: TypeAlias = tuple[str, str]
Headers: TypeAlias = tuple[Header, ...]

_STATIC = [("", ""), *((name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE)]
_FIELD_BYTES = 32
"""What each field counts for beside its text."""
_KNOWN_FIELDS = 4096
_LONGEST_KNOWN = 256
"""Bytes up to which a field is remembered; more is hardly the same twice."""
_KNOWN_BLOCKS = 1024
_LONGEST_KNOWN_BLOCK = 1024


class BlockError(Exception):
    """A header block that cannot be read; the connection's state of compression is lost."""


class _UnusualError(Exception):
    """The block needs the table, or is malformed: `hpack` shall say."""


class Blocks:
    """Reads the header blocks of one connection, in their order."""

    def __init__(self, max_bytes: int) -> None:
        self._decoder = Decoder(max_header_list_size=max_bytes)
        self._max_bytes = max_bytes

    def acknowledged(self) -> None:
        """The client has heard that the table shall be empty."""
        self._decoder.max_allowed_table_size = 0

    def decode(self, block: bytes) -> Headers:
        """Its fields. Raises `BlockError`."""
        try:
            walk = _walk_again if len(block) <= _LONGEST_KNOWN_BLOCK else _walk
            empty = self._decoder.header_table.maxsize == 0
            return walk(block, self._max_bytes, table_is_empty=empty)
        except (_UnusualError, IndexError, HPACKError):
            pass
        try:
            return tuple(map(_readable, self._decoder.decode(block, raw=True)))
        except HPACKError as error:
            raise BlockError(str(error)) from error


def _walk(block: bytes, max_bytes: int, *, table_is_empty: bool) -> Headers:
    """The fields of a block that needs no table."""
    headers: list[Header] = []
    size, at, end = 0, 0, len(block)
    while at < end:
        first = block[at]
        if first & 0x80:
            stop = at + 1
        else:
            if first & 0x40:
                if not table_is_empty:
                    raise _UnusualError
                named = first & 0x3F
                longest = 0x3F
            elif first & 0x20:
                raise _UnusualError
            else:
                named = first & 0x0F
                longest = 0x0F
            stop = at + 1
            if named == 0:
                stop = _past_text(block, stop)
            elif named == longest:
                stop += 1
                if block[stop - 1] & 0x80:
                    raise _UnusualError
            stop = _past_text(block, stop)
        if stop > end:
            raise _UnusualError
        field = block[at:stop]
        header = _known(field) if stop - at <= _LONGEST_KNOWN else _field(field)
        headers.append(header)
        size += _FIELD_BYTES + len(header[0]) + len(header[1])
        if size > max_bytes:
            raise _UnusualError
        at = stop
    return tuple(headers)


_walk_again = lru_cache(_KNOWN_BLOCKS)(_walk)


def _past_text(block: bytes, at: int) -> int:
    """The position behind a string, whose length stands at `at`."""
    length = block[at] & 0x7F
    at += 1
    if length == 0x7F:
        shift = 0
        while True:
            byte = block[at]
            at += 1
            length += (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return at + length
            if shift > 21:
                raise _UnusualError
    return at + length


def _field(field: bytes) -> Header:
    """One field that needs no table, whose bounds `_walk` has checked. Raises HPACKError."""
    first = field[0]
    if first & 0x80:
        return _static(first & 0x7F)
    named = first & (0x3F if first & 0x40 else 0x0F)
    if named == (0x3F if first & 0x40 else 0x0F):
        name, at = _static(named + field[1])[0], 2
    elif named:
        name, at = _static(named)[0], 1
    else:
        at = _past_text(field, 1)
        name = _text(field[1:at])
    return name, _text(field[at:])


def _static(index: int) -> Header:
    if not 0 < index < len(_STATIC):
        raise _UnusualError
    return _STATIC[index]


def _text(text: bytes) -> str:
    """A string, with its length before it."""
    size = text[0] & 0x7F
    start = 1
    if size == 0x7F:
        while text[start] & 0x80:
            start += 1
        start += 1
    raw = text[start:]
    if text[0] & 0x80:
        raw = decode_huffman(raw)
    # Whatever the client sent: one odd value is not the end of everybody's connection.
    return raw.decode(errors="replace")


def _readable(header: HeaderTuple) -> Header:
    name, value = header
    return bytes(name).decode(errors="replace"), bytes(value).decode(errors="replace")


_known = lru_cache(_KNOWN_FIELDS)(_field)


def listed_bytes(headers: Iterable[Header]) -> int:
    """Their size as the settings count it."""
    return sum(_FIELD_BYTES + len(name) + len(value) for name, value in headers)


def encode(headers: Iterable[Header]) -> bytes:
    """The block of these fields, which enter no table and use no code."""
    return b"".join(_literal(*header) for header in headers)


def _literal(name: str, value: str) -> bytes:
    raw_name, raw_value = name.encode(), value.encode()
    return b"".join((b"\0", _length(len(raw_name)), raw_name, _length(len(raw_value)), raw_value))


def _length(length: int) -> bytes:
    if length < 0x7F:
        return length.to_bytes(1, "big")
    parts = bytearray(b"\x7f")
    length -= 0x7F
    while length >= 0x80:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    parts.append(length)
    return bytes(parts)
