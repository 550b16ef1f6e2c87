"""The bytes of a log: segments made of frames.

A segment is `MAGIC`, one byte with the version of this format, and frames; a log is one segment
after the other, in one file or in several. A frame is its kind (one byte), the length of its
payload and a CRC-32 of all three (four bytes each, big-endian), then the payload, which is msgpack.

| frame | holds |
|---|---|
| `OPENING` | what the segment is: a mapping, see `Opening` |
| `STATE` | the scheduler's state before the first step |
| `STEPS` | what is in it (`Counts`), then [[now_ns, [event, ...], [command, ...]], ...] |
| `END` | [steps that the segment has, steps after it that were lost] |
| `INCIDENT` | instead of the others, at the head of a flight record: see `Incident` |

Each segment can be read alone. One that does not end with `END` was cut off; after a frame that is
not what its CRC says, reading goes on at the next `MAGIC`.
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

MOST_FRAME: Final = 256 * 1024**2
"""Bytes of a payload; a longer one is no frame of ours."""

_HEAD: Final = struct.Struct(">BII")
_COUNTS: Final = struct.Struct(">IIq")


class FrameKind(IntEnum):
    """What a frame holds."""

    OPENING = 1
    STATE = 2
    STEPS = 3
    END = 4
    INCIDENT = 5


@dataclass(frozen=True, slots=True)
class Opening:
    """What a segment says of itself."""

    log: str
    """Equal for all segments that one server wrote since its start."""
    number: int
    """The segment's place in that log, from 0."""
    now_ns: int
    """The monotonic moment of its beginning."""
    wall_ns: int
    """The same in nanoseconds since 1970."""
    version: str
    """Of batcher."""
    scheduler: str
    """A fingerprint of the scheduler's own code: only an equal one must give equal commands."""
    schema: Schema
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The sections `batching` and `queue` of each model by its name in events, as they are in force
    when the segment begins."""

    @property
    def by(self) -> str:
        """Who recorded it, for people."""
        return f"batcher {self.version}, scheduler {self.scheduler or 'unknown'}"

    @classmethod
    def of(cls, value: Any) -> Self:
        """Reads what `asdict` made. Raises `CodecError`."""
        try:
            opening = cls(**value)
            texts = (opening.log, opening.version, opening.scheduler)
            numbers = (opening.number, opening.now_ns, opening.wall_ns)
            good = all(type(t) is str for t in texts) and all(type(n) is int for n in numbers)
            schema = tuple(
                (str(name), tuple(str(each) for each in names)) for name, names in opening.schema
            )
        except (TypeError, ValueError) as error:
            raise CodecError(f"is no opening of a segment: {error}") from None
        if not good or schema != opening.schema or not isinstance(opening.models, dict):
            raise CodecError("is no opening of a segment")
        return opening


@dataclass(frozen=True, slots=True)
class Incident:
    """Why a flight record was written, and what there was."""

    reason: str
    detail: str
    wall_ns: int
    version: str
    python: str
    platform: str
    packages: Mapping[str, str]
    config: str
    """The text of the configuration file that was applied last; references to the environment are
    as they stand in it."""
    metrics: str
    """What `/metrics` said."""
    changes: tuple[str, ...] = ()
    """What was in force in place of what that text says, because of admin calls."""

    @classmethod
    def of(cls, value: Any) -> Self:
        """Reads what `asdict` made. Raises `CodecError`."""
        try:
            return cls(**value)
        except TypeError as error:
            raise CodecError(f"is no description of an incident: {error}") from None


class Counts(NamedTuple):
    """What a block of steps holds, to be known without unpacking it."""

    steps: int
    requests: int
    last_ns: int


def steps_frame(counts: Counts, steps: bytes) -> bytes:
    """A block of packed steps."""
    return frame(FrameKind.STEPS, _COUNTS.pack(*counts) + steps)


def end_frame(steps: int, lost: int) -> bytes:
    """How a segment ends."""
    return frame(FrameKind.END, msgpack.packb((steps, lost)))


def frame(kind: FrameKind, payload: bytes) -> bytes:
    """The bytes of a frame."""
    return _HEAD.pack(kind, len(payload), _crc(kind, payload)) + payload


def opening_bytes(opening: Opening, state: bytes) -> bytes:
    """How a segment begins; `state` is the packed state."""
    head = frame(FrameKind.OPENING, msgpack.packb(asdict(opening)))
    return b"".join((MAGIC, bytes((FORMAT,)), head, frame(FrameKind.STATE, state)))


def incident_bytes(incident: Incident) -> bytes:
    """How a flight record begins; segments follow."""
    packed = msgpack.packb(asdict(incident), unicode_errors="surrogatepass")
    return b"".join((MAGIC, bytes((FORMAT,)), frame(FrameKind.INCIDENT, packed)))


def _crc(kind: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEAD.pack(kind, len(payload), 0)))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose CRC is right: where its payload is."""

    kind: FrameKind
    start: int
    stop: int


@dataclass(slots=True)
class Piece:
    """From one `MAGIC` to the next: frames, and what ended them if it was not their end."""

    start: int
    frames: list[Frame] = field(default_factory=list)
    fault: str = ""


def pieces(data: bytes | memoryview) -> Iterator[Piece]:
    """The segments of a log, good and bad. Bytes that belong to none are a piece with a fault."""
    text = bytes(data)
    at = 0
    while at < len(text):
        if not text.startswith(MAGIC, at):
            piece = Piece(at, fault="no segment begins here")
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
    """Read the frames of a piece; returns where the next one begins."""
    begins = at
    if text[at : at + 1] != bytes((FORMAT,)):
        version = text[at] if at < len(text) else "nothing"
        piece.fault = f"it is of format {version}, and this version reads {FORMAT}"
        return _next(text, begins)
    at += 1
    view = memoryview(text)
    while at < len(text) and not text.startswith(MAGIC, at):
        if at + _HEAD.size > len(text):
            piece.fault = f"it is cut off at byte {len(text)}"
            return len(text)
        kind, length, crc = _HEAD.unpack_from(text, at)
        start, stop = at + _HEAD.size, at + _HEAD.size + length
        if length > MOST_FRAME or stop > len(text):
            following = _next(text, at)
            if following < len(text):
                piece.fault = f"it is cut off or corrupt at byte {at}"
            else:
                piece.fault = f"it is cut off at byte {len(text)}, or corrupt at byte {at}"
            return following
        if _crc(kind, view[start:stop]) != crc:
            piece.fault = f"it is corrupt at byte {at}: a frame is not what its checksum says"
            return _next(text, at)
        try:
            piece.frames.append(Frame(FrameKind(kind), start, stop))
        except ValueError:
            piece.fault = f"it has a frame of kind {kind} at byte {at}, which no version wrote"
            return _next(text, at)
        at = stop
    return at


def payload(data: bytes | memoryview, found: Frame, base: int = 0) -> Any:
    """What a frame holds; `data` begins at byte `base` of the file. Raises `CodecError`."""
    start = found.start + (_COUNTS.size if found.kind is FrameKind.STEPS else 0)
    return unpack(memoryview(data)[start - base : found.stop - base])


def counts(data: bytes | memoryview, found: Frame) -> Counts:
    """What a block of steps holds. Raises `CodecError`."""
    try:
        return Counts(*_COUNTS.unpack_from(data, found.start))
    except struct.error as error:
        raise CodecError(f"is no block of steps: {error}") from None
