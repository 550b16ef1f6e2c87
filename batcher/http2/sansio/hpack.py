"""Header blocks (HPACK, RFC 7541): read with the table that every client may use, written without.

The table has the size that clients assume before they hear of another: some never change it. A
client of gRPC needs it for a few bytes a call: from its second call on, all that stays the same
comes from the table, and a block that was seen before, while the table was the same, is not read
again. What is remembered belongs to one connection, and what clients mark as never to be indexed is
not remembered at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from hpack.table import HeaderTable

from batcher.http2.sansio.fields import FIELD_BYTES, Fields, Header, is_valid_field
from batcher.http2.sansio.frames import ConnectionFailedError, Error
from batcher.http2.sansio.huffman import decode_huffman

TABLE_BYTES = 4096
"""Of fields, with 32 for each, that a client may refer to."""
CACHED_BLOCKS, MAX_CACHED_BLOCK_BYTES = 16, 256
"""HeaderDecoder of a connection that are remembered, and their bytes."""
CACHED_FIELDS, MAX_CACHED_FIELD_BYTES = 32, 128
"""Fields of a connection that are remembered beside the table, and their bytes: some proxies never
refer to what they enter into it."""

_INDEXED, _ENTERS, _RESIZES, _NEVER_INDEXED = 0x80, 0x40, 0x20, 0x10
_MAX_SIZE_UPDATES = 16
"""In a block. Two say all there is to say; the library `hpack` sends one for each change."""
_LONGEST_NUMBER = 28
"""Bits beyond the prefix."""

_Field: TypeAlias = tuple[Header, int, bool]
"""A field, its bytes as the table counts them, and whether it keeps the rules."""


def _field(name: bytes, value: bytes) -> _Field:
    # A value may be in any code; a name that is not in ASCII breaks the rules.
    header = name.decode("latin-1"), value.decode(errors="replace")
    return header, FIELD_BYTES + len(name) + len(value), is_valid_field(name, value)


_STATIC = [
    _field(bytes(name), bytes(value)) for name, value in ((b"", b""), *HeaderTable.STATIC_TABLE)
]


class HeaderDecoder:
    """Reads the header blocks of one connection, in their order."""

    def __init__(self, max_bytes: int, most_bytes: int) -> None:
        """Of a block, fields of `max_bytes` are kept; more than `most_bytes` are not read."""
        self._max_bytes = max_bytes
        self._most_bytes = most_bytes
        self._table: list[_Field] = []
        """The latest last."""
        self._table_bytes = 0
        self._table_most = TABLE_BYTES
        self._known: dict[bytes, Fields] = {}
        """HeaderDecoder that mean the same as long as the table stays as it is."""
        self._known_fields: dict[bytes, _Field] = {}

    def decode(self, block: bytes) -> Fields:
        """Its fields. Raises `ConnectionFailedError`: the next block cannot be read any more."""
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            return self._read(block)
        except (IndexError, ValueError):
            raise ConnectionFailedError(
                Error.COMPRESSION_ERROR, "a header block cannot be decoded"
            ) from None

    def _read(self, block: bytes) -> Fields:
        headers: list[Header] = []
        size, at, end = 0, 0, len(block)
        most, sound, lasts, begun = self._max_bytes, True, end <= MAX_CACHED_BLOCK_BYTES, False
        resizes = 0
        while at < end:
            first = block[at]
            if first & _INDEXED:
                if first < 0xFF:
                    index = first & 0x7F
                    at += 1
                else:
                    index, at = _number(block, at, 0x7F)
                field = self._entry(index)
            elif first & 0xE0 == _RESIZES:
                resizes += 1
                if begun or resizes > _MAX_SIZE_UPDATES:
                    raise ValueError("the table is resized between fields, or again and again")
                room, at = _number(block, at, 0x1F)
                self._resize(room)
                lasts = False
                continue
            else:
                if first & (_ENTERS | _NEVER_INDEXED):
                    lasts = False
                field, at = self._literal(block, at, left_out=size > most)
            begun = True
            header, bytes_, keeps = field
            size += bytes_
            sound = sound and keeps
            if size <= most:
                headers.append(header)
            elif size > self._most_bytes:
                raise ConnectionFailedError(
                    Error.ENHANCE_YOUR_CALM, f"headers take at most {most} bytes"
                )
        fields = Fields(tuple(headers), size, sound)
        if lasts and size <= most:
            if len(self._known) >= CACHED_BLOCKS:
                self._known.clear()
            self._known[block] = fields
        return fields

    def _entry(self, index: int) -> _Field:
        if index < len(_STATIC):
            if not index:
                raise ValueError("there is no field 0")
            return _STATIC[index]
        return self._table[len(_STATIC) - 1 - index]

    def _literal(self, block: bytes, at: int, *, left_out: bool) -> tuple[_Field, int]:
        """The field that begins at `at`, and the position behind it."""
        first, start = block[at], at
        named, at = _number(block, at, 0x3F if first & _ENTERS else 0x0F)
        value = at if named else _past_text(block, at)
        stop = _past_text(block, value)
        if stop > len(block):
            raise ValueError("a field is cut short")
        if left_out and not first & _ENTERS:
            return (("", ""), FIELD_BYTES + stop - start, True), stop
        raw = block[start:stop]
        field = self._known_fields.get(raw)
        if field is None:
            name = self._entry(named)[0][0].encode("latin-1") if named else _text(block[at:value])
            field = _field(name, _text(block[value:stop]))
            if (
                named < len(_STATIC)
                and len(raw) <= MAX_CACHED_FIELD_BYTES
                and first & 0xF0 != _NEVER_INDEXED
            ):
                if len(self._known_fields) >= CACHED_FIELDS:
                    self._known_fields.clear()
                self._known_fields[raw] = field
        if first & _ENTERS:
            self._known.clear()
            self._table.append(field)
            self._table_bytes += field[1]
            self._evict()
        return field, stop

    def _resize(self, room: int) -> None:
        if room > TABLE_BYTES:
            raise ValueError("the table is larger than allowed")
        self._known.clear()
        self._table_most = room
        self._evict()

    def _evict(self) -> None:
        """The oldest go, also the latest where it is larger than the table."""
        gone = 0
        while self._table_bytes > self._table_most:
            self._table_bytes -= self._table[gone][1]
            gone += 1
        if gone:
            del self._table[:gone]


def _number(block: bytes, at: int, most: int) -> tuple[int, int]:
    """A number whose prefix has the bits of `most`, and the position behind it."""
    number = block[at] & most
    at += 1
    if number == most:
        shift = 0
        while True:
            byte = block[at]
            at += 1
            number += (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > _LONGEST_NUMBER:
                raise ValueError("a number without an end")
    return number, at


def _past_text(block: bytes, at: int) -> int:
    """The position behind a text, whose length stands at `at`."""
    length, start = _number(block, at, 0x7F)
    return start + length


def _text(text: bytes) -> bytes:
    """A text, with its length before it."""
    _, start = _number(text, 0, 0x7F)
    return decode_huffman(text[start:]) if text[0] & 0x80 else text[start:]


def encode(headers: Iterable[Header]) -> bytes:
    """The block of these fields, which enter no table and use no code."""
    return b"".join(_encoded(*header) for header in headers)


def _encoded(name: str, value: str) -> bytes:
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
