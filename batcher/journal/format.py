"""The bytes of an event log: segments that consist of frames.

A segment is `MAGIC`, one byte with the version of this format, and frames; a log is a sequence of
segments, in one file or several. A frame is its kind (one byte), the length of its payload and a
CRC-32 of kind, length and payload (four bytes each, big-endian), then the payload in msgpack.

| frame | payload |
|---|---|
| `OPENING` | the head of the segment: a mapping, see `Opening` |
| `STATE` | the scheduler's state before the first step |
| `STEPS` | `Counts` of the block, then [[now_ns, [event, ...], [command, ...]], ...] |
| `END` | [steps in the segment, steps after it that were dropped] |
| `INCIDENT` | the only frame of the first segment of a flight record: see `Incident` |

Each segment can be read alone. One without `END` was cut off. After a frame with a wrong CRC, reading
goes on at the next `MAGIC`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple, Self

import msgpack

from batcher.journal.codec import CodecError, Schema, unpack

MAGIC: Final = b"\x89batcher-log\r\n\x1a\n"
FORMAT: Final = 1

MAX_FRAME_BYTES: Final = 256 * 1024**2
"""Bytes of the largest payload; a longer one is taken for a corrupt frame."""

_HEAD: Final = struct.Struct(">BII")
_COUNTS: Final = struct.Struct(">IIq")


class FrameKind(IntEnum):
    """What a frame's payload is."""

    OPENING = 1
    STATE = 2
    STEPS = 3
    END = 4
    INCIDENT = 5


@dataclass(frozen=True, slots=True)
class Opening:
    """The head of a segment."""

    log: str
    """An id, equal in all segments that one server writes between start and end."""
    number: int
    """The number of the segment in that log, from 0."""
    now_ns: int
    """When it begins, by the monotonic clock."""
    wall_ns: int
    """The same time, in nanoseconds since 1970."""
    version: str
    """The version of batcher that recorded it."""
    scheduler: str
    """`scheduler_fingerprint()` of the server that recorded it."""
    schema: Schema
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model (by its key in events) -> its sections `batching` and `queue` in force at the beginning."""

    @property
    def recorded_by(self) -> str:
        """The version and scheduler that recorded it, for messages."""
        return f"batcher {self.version}, scheduler {self.scheduler or 'unknown'}"

    @classmethod
    def of(cls, value: Any) -> Self:
        """Read what `asdict` has made. Raises `CodecError`."""
        try:
            opening = cls(**value)
            texts = (opening.log, opening.version, opening.scheduler)
            numbers = (opening.number, opening.now_ns, opening.wall_ns)
            good = all(type(t) is str for t in texts) and all(type(n) is int for n in numbers)
            schema = tuple(
                (str(name), tuple(str(each) for each in names)) for name, names in opening.schema
            )
        except (TypeError, ValueError) as error:
            raise CodecError(f"the head of a segment is malformed: {error}") from None
        if not good or schema != opening.schema or not isinstance(opening.models, dict):
            raise CodecError("the head of a segment is malformed")
        return opening


@dataclass(frozen=True, slots=True)
class Incident:
    """The head of a flight record: why it was written, and the state of the process."""

    reason: str
    detail: str
    wall_ns: int
    version: str
    python: str
    platform: str
    packages: Mapping[str, str]
    config: str
    """The text of the configuration file that was applied last, with `${NAME}` unresolved."""
    metrics: str
    """The text of `/metrics`."""
    changes: tuple[str, ...] = ()
    """Changes by admin calls since then, as `MODEL/VERSION PATH: VALUE`."""

    @classmethod
    def of(cls, value: Any) -> Self:
        """Read what `asdict` has made. Raises `CodecError`."""
        try:
            return cls(**value)
        except TypeError as error:
            raise CodecError(f"the description of the incident is malformed: {error}") from None


class Counts(NamedTuple):
    """The size of a block of steps, readable without unpacking it."""

    steps: int
    requests: int
    last_ns: int


def steps_frame(counts: Counts, steps: bytes) -> bytes:
    """A frame with a block of packed steps."""
    return frame(FrameKind.STEPS, _COUNTS.pack(*counts) + steps)


def end_frame(steps: int, lost: int) -> bytes:
    """The frame that ends a segment."""
    return frame(FrameKind.END, msgpack.packb((steps, lost)))


def frame(kind: FrameKind, payload: bytes) -> bytes:
    """A frame's bytes."""
    return _HEAD.pack(kind, len(payload), _crc(kind, payload)) + payload


def opening_bytes(opening: Opening, state: bytes) -> bytes:
    """The beginning of a segment; `state` is the packed snapshot."""
    head = frame(FrameKind.OPENING, msgpack.packb(asdict(opening)))
    return b"".join((MAGIC, bytes((FORMAT,)), head, frame(FrameKind.STATE, state)))


def incident_bytes(incident: Incident) -> bytes:
    """The beginning of a flight record, which segments follow."""
    packed = msgpack.packb(asdict(incident), unicode_errors="surrogatepass")
    return b"".join((MAGIC, bytes((FORMAT,)), frame(FrameKind.INCIDENT, packed)))


def _crc(kind: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEAD.pack(kind, len(payload), 0)))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame with a correct CRC: where its payload is in the file."""

    kind: FrameKind
    start: int
    stop: int


@dataclass(slots=True)
class Piece:
    """The bytes from one `MAGIC` to the next: its frames, and what is wrong after the last of them."""

    start: int
    frames: list[Frame] = field(default_factory=list)
    fault: str = ""


def pieces(data: bytes | memoryview) -> Iterator[Piece]:
    """The pieces of a file, good and bad. Bytes outside of segments are a piece with a fault."""
    text = bytes(data)
    at = 0
    while at < len(text):
        if not text.startswith(MAGIC, at):
            piece = Piece(at, fault="these bytes are no segment")
            at = _next(text, at)
            yield piece
            continue
        piece = Piece(at)
        at = _frames(text, at + len(MAGIC), piece)
        yield piece


def _next(text: bytes, at: int) -> int:
    found = text.find(MAGIC, at)
    return len(text) if found < 0 else found


def _frames(text: bytes, at: int, piece: Piece) -> int:
    """Read the frames of a piece; returns where the next piece begins."""
    begins = at
    if text[at : at + 1] != bytes((FORMAT,)):
        version = text[at] if at < len(text) else "nothing"
        piece.fault = (
            f"it has format {version}, and this version of batcher reads format {FORMAT};"
            " read it with the version that recorded it"
        )
        return _next(text, begins)
    at += 1
    view = memoryview(text)
    while at < len(text) and not text.startswith(MAGIC, at):
        if at + _HEAD.size > len(text):
            piece.fault = f"it is cut off at byte {len(text)}"
            return len(text)
        kind, length, crc = _HEAD.unpack_from(text, at)
        start, stop = at + _HEAD.size, at + _HEAD.size + length
        if length > MAX_FRAME_BYTES or stop > len(text):
            following = _next(text, at)
            if following < len(text):
                piece.fault = f"it is cut off or corrupt at byte {at}"
            else:
                piece.fault = f"it is cut off at byte {len(text)}, or corrupt at byte {at}"
            return following
        if _crc(kind, view[start:stop]) != crc:
            piece.fault = f"it is corrupt at byte {at}: a frame has a wrong checksum"
            return _next(text, at)
        try:
            piece.frames.append(Frame(FrameKind(kind), start, stop))
        except ValueError:
            piece.fault = f"it has a frame of the unknown kind {kind} at byte {at}"
            return _next(text, at)
        at = stop
    return at


def payload(data: bytes | memoryview, found: Frame, base: int = 0) -> Any:
    """A frame's payload; `data` begins at byte `base` of the file. Raises `CodecError`."""
    start = found.start + (_COUNTS.size if found.kind is FrameKind.STEPS else 0)
    return unpack(memoryview(data)[start - base : found.stop - base])


def counts(data: bytes | memoryview, found: Frame) -> Counts:
    """The counts of a block of steps. Raises `CodecError`."""
    try:
        return Counts(*_COUNTS.unpack_from(data, found.start))
    except struct.error as error:
        raise CodecError(f"a block of steps is malformed: {error}") from None
