"""Header blocks (HPACK, RFC 7541): decoded with a dynamic table of 4 KiB, encoded without any.

4 KiB is the size that clients assume before they read SETTINGS; some never change it. From its second call
on, a client of gRPC refers to the table for all that stays the same, so a block has some ten bytes, and
equal blocks follow each other. A block that was decoded before, with the same table, is taken from a cache.

Tables and caches belong to one connection. Fields that a client marks as never indexed are in neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from hpack.table import HeaderTable

from batcher.http2.sansio.fields import FIELD_BYTES, Fields, Header, is_valid_field
from batcher.http2.sansio.frames import ConnectionFailedError, Error
from batcher.http2.sansio.huffman import decode_huffman

TABLE_BYTES = 4096
"""Size of the dynamic table: bytes of its fields, with 32 for each (RFC 7541, section 4.1)."""
CACHED_BLOCKS, MAX_CACHED_BLOCK_BYTES = 16, 256
"""Blocks of a connection that are cached, and the bytes that one of them may have."""
CACHED_FIELDS, MAX_CACHED_FIELD_BYTES = 32, 128
"""Literal fields of a connection that are cached, and the bytes that one of them may have. Some proxies
never refer to the table, and send each field as a literal."""

_INDEXED, _INCREMENTAL, _SIZE_UPDATE, _NEVER_INDEXED = 0x80, 0x40, 0x20, 0x10
"""First bits of the representations of a field (RFC 7541, section 6)."""
_MAX_SIZE_UPDATES = 16
"""Updates of the table's size in a block. Two are enough; the library `hpack` sends one for each change."""
_MAX_INTEGER_SHIFT = 28
"""Bits of an integer beyond its prefix."""

_Field: TypeAlias = tuple[Header, int, bool]
"""A field, its bytes as the table counts them, and whether it is valid by itself."""


def _field(name: bytes, value: bytes) -> _Field:
    # A value may have any encoding; a name that is not ASCII is not valid.
    header = name.decode("latin-1"), value.decode(errors="replace")
    return header, FIELD_BYTES + len(name) + len(value), is_valid_field(name, value)


_STATIC = [
    _field(bytes(name), bytes(value)) for name, value in ((b"", b""), *HeaderTable.STATIC_TABLE)
]


class HeaderDecoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self, max_bytes: int, max_read_bytes: int) -> None:
        """Fields of a block beyond `max_bytes` are dropped; `max_read_bytes` are read at most."""
        self._max_bytes = max_bytes
        self._max_read_bytes = max_read_bytes
        self._table: list[_Field] = []
        """The dynamic table, the latest entry last."""
        self._table_bytes = 0
        self._table_max = TABLE_BYTES
        self._cached_blocks: dict[bytes, Fields] = {}
        """Decoded blocks, as long as the table stays as it is."""
        self._cached_fields: dict[bytes, _Field] = {}

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises `ConnectionFailedError`: further ones cannot be decoded then."""
        cached = self._cached_blocks.get(block)
        if cached is not None:
            return cached
        try:
            return self._decode(block)
        except IndexError:
            reason = "it ends within a field, or refers to a field that is not there"
        except ValueError as error:
            reason = str(error)
        raise ConnectionFailedError(
            Error.COMPRESSION_ERROR, f"a header block is not valid HPACK: {reason}"
        )

    def _decode(self, block: bytes) -> Fields:
        headers: list[Header] = []
        size, at, end = 0, 0, len(block)
        most, valid, cacheable, begun = self._max_bytes, True, end <= MAX_CACHED_BLOCK_BYTES, False
        size_updates = 0
        while at < end:
            first = block[at]
            if first & _INDEXED:
                if first < 0xFF:
                    index = first & 0x7F
                    at += 1
                else:
                    index, at = _integer(block, at, 0x7F)
                field = self._entry(index)
            elif first & 0xE0 == _SIZE_UPDATE:
                size_updates += 1
                if begun or size_updates > _MAX_SIZE_UPDATES:
                    raise ValueError("the table is resized between fields, or too often")
                table_size, at = _integer(block, at, 0x1F)
                self._resize(table_size)
                cacheable = False
                continue
            else:
                if first & (_INCREMENTAL | _NEVER_INDEXED):
                    cacheable = False
                field, at = self._literal(block, at, dropped=size > most)
            begun = True
            header, field_size, field_valid = field
            size += field_size
            valid = valid and field_valid
            if size <= most:
                headers.append(header)
            elif size > self._max_read_bytes:
                raise ConnectionFailedError(
                    Error.ENHANCE_YOUR_CALM, f"headers may have {most} bytes at most"
                )
        fields = Fields(tuple(headers), size, valid)
        if cacheable and size <= most:
            if len(self._cached_blocks) >= CACHED_BLOCKS:
                self._cached_blocks.clear()
            self._cached_blocks[block] = fields
        return fields

    def _entry(self, index: int) -> _Field:
        if index < len(_STATIC):
            if not index:
                raise ValueError("index 0")
            return _STATIC[index]
        return self._table[len(_STATIC) - 1 - index]

    def _literal(self, block: bytes, at: int, *, dropped: bool) -> tuple[_Field, int]:
        """The field that begins at `at`, and the position behind it.

        One that is `dropped` and does not enter the table is only counted.
        """
        first, start = block[at], at
        name_index, at = _integer(block, at, 0x3F if first & _INCREMENTAL else 0x0F)
        value = at if name_index else _string_end(block, at)
        stop = _string_end(block, value)
        if stop > len(block):
            raise ValueError("a field is cut short")
        if dropped and not first & _INCREMENTAL:
            return (("", ""), FIELD_BYTES + stop - start, True), stop
        raw = block[start:stop]
        field = self._cached_fields.get(raw)
        if field is None:
            name = (
                self._entry(name_index)[0][0].encode("latin-1")
                if name_index
                else _string(block[at:value])
            )
            field = _field(name, _string(block[value:stop]))
            if (
                name_index < len(_STATIC)
                and len(raw) <= MAX_CACHED_FIELD_BYTES
                and first & 0xF0 != _NEVER_INDEXED
            ):
                if len(self._cached_fields) >= CACHED_FIELDS:
                    self._cached_fields.clear()
                self._cached_fields[raw] = field
        if first & _INCREMENTAL:
            self._cached_blocks.clear()
            self._table.append(field)
            self._table_bytes += field[1]
            self._evict()
        return field, stop

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES:
            raise ValueError("the table is larger than allowed")
        self._cached_blocks.clear()
        self._table_max = size
        self._evict()

    def _evict(self) -> None:
        """Drop the oldest entries until the table has its size, all where the latest is larger than that."""
        dropped = 0
        while self._table_bytes > self._table_max:
            self._table_bytes -= self._table[dropped][1]
            dropped += 1
        if dropped:
            del self._table[:dropped]


def _integer(block: bytes, at: int, most: int) -> tuple[int, int]:
    """The integer at `at`, whose prefix has the bits of `most`, and the position behind it."""
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
            if shift > _MAX_INTEGER_SHIFT:
                raise ValueError("an integer is too large")
    return number, at


def _string_end(block: bytes, at: int) -> int:
    """The position behind the string literal at `at`."""
    length, start = _integer(block, at, 0x7F)
    return start + length


def _string(text: bytes) -> bytes:
    """Decode a string literal."""
    _, start = _integer(text, 0, 0x7F)
    return decode_huffman(text[start:]) if text[0] & 0x80 else text[start:]


def encode(headers: Iterable[Header]) -> bytes:
    """Encode fields as a block: each a literal without indexing and without Huffman code."""
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
