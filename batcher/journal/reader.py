"""Reads an event log, a file or a folder of files, as segments that each replay alone.

What cannot be read is left out and listed in `Log.faults`, with the file, the segment and the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from batcher import __version__
from batcher.core.commands import Command
from batcher.core.events import Event
from batcher.core.record import record
from batcher.core.state import State
from batcher.errors import InputError
from batcher.journal.codec import CodecError, Decoder, Schema
from batcher.journal.fingerprint import scheduler_fingerprint
from batcher.journal.format import (
    MAGIC,
    Frame,
    FrameKind,
    Incident,
    Opening,
    Piece,
    counts,
    payload,
    pieces,
)

SUFFIX: Final = ".batcherlog"
"""The suffix of event logs and flight records."""

JOURNAL: Final = "journal"
"""The prefix of a journal's files."""


@record
class Step:
    """One call of `Scheduler.handle`: its time, events and commands."""

    now_ns: int
    events: list[Event]
    commands: list[Command]


@dataclass(slots=True)
class Segment:
    """A part of the log that replays from its own snapshot. `steps` reads it from the file."""

    path: Path
    start: int
    """The offset of its first byte in the file."""
    opening: Opening
    decoder: Decoder
    _state: Frame
    _blocks: list[Frame]
    steps_count: int
    requests: int
    """How many requests arrived in it."""
    last_ns: int
    """The time of its last step."""
    ended: bool
    """Whether its `END` was written; the last segment of a flight record or of a running server has
    none."""
    complete: bool
    """Whether it has all its steps, so that the next segment continues it."""
    began_ns: int = 0
    """The time, by its clock, at which the earliest of the logs began."""

    def since(self, now_ns: int) -> int:
        """Nanoseconds from that beginning to `now_ns` of its clock; comparable between logs."""
        return now_ns - self.began_ns

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"segment {self.opening.number} ({self.path.name})"

    def state(self) -> State:
        """The scheduler's state before the first step. Raises `CodecError`."""
        found = self._state
        try:
            return self.decoder.state(payload(self._read(found, found), found, found.start))
        except CodecError as error:
            raise _explained(error, self.opening) from None

    def steps(self) -> Iterator[Step]:
        """Its steps, in order. Raises `CodecError`."""
        blocks = self._blocks
        if not blocks:
            return
        data, base = self._read(blocks[0], blocks[-1]), blocks[0].start
        events, commands = self.decoder.events, self.decoder.commands
        for block in blocks:
            for now_ns, given, returned in payload(data, block, base):
                try:
                    step = Step(now_ns, events(given), commands(returned))
                except CodecError as error:
                    raise _explained(error, self.opening) from None
                yield step

    def _read(self, first: Frame, last: Frame) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(first.start)
                return file.read(last.stop - first.start)
        except OSError as error:
            raise CodecError(f"the file can no longer be read: {error.strerror}") from None

    def follows(self, before: Segment) -> bool:
        """Whether it continues where `before` ends."""
        mine, its = self.opening, before.opening
        return before.complete and mine.log == its.log and mine.number == its.number + 1


@dataclass(slots=True)
class Log:
    """The readable segments of a log, in order of time."""

    segments: list[Segment] = field(default_factory=list)
    incident: Incident | None = None
    """The incident, if it is a flight record."""
    faults: list[str] = field(default_factory=list)
    """What is missing or could not be read."""


def is_log(path: Path) -> bool:
    """Whether `path` is a folder, or a file with the suffix or the first bytes of a log."""
    if path.is_dir() or path.suffix == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_log(path: Path) -> Log:
    """Index a log without reading its steps. Raises `InputError` if no segment can be replayed."""
    files = _files(path)
    log = Log()
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            log.faults.append(f"{file}: cannot be read: {error.strerror}")
            continue
        if not data:
            log.faults.append(f"{file}: the file is empty")
        for number, piece in enumerate(pieces(data)):
            _take(log, file, data, piece, f"{file.name}, piece {number} at byte {piece.start}")
    _put_in_order(log.segments)
    _remove_copies(log)
    for before, after in zip_longest(log.segments, log.segments[1:]):
        if after is not None and before.opening.log == after.opening.log:
            missing = after.opening.number - before.opening.number - 1
            if missing:
                log.faults.append(f"{before.name}: the {missing} segments after it are missing")
            if not before.ended:
                log.faults.append(f"{before.name}: it has no end: the rest of it was not written")
        elif not before.ended and log.incident is None:
            log.faults.append(
                f"{before.name}: it has no end: its server still runs, or the rest of it was not written"
            )
    if not log.segments:
        faults = "".join(f"\n  {fault}" for fault in log.faults)
        raise InputError(f"{path}: it has no segment that can be replayed{faults}")
    return log


def _put_in_order(segments: list[Segment]) -> None:
    """Sort logs by their beginning and segments by their number.

    Each log has its own monotonic clock; the wall clock, which may be set back, only orders logs.
    """
    firsts: dict[str, Opening] = {}
    for segment in segments:
        opening = segment.opening
        first = firsts.setdefault(opening.log, opening)
        if opening.number < first.number:
            firsts[opening.log] = opening
    began = min((first.wall_ns for first in firsts.values()), default=0)
    for segment in segments:
        first = firsts[segment.opening.log]
        segment.began_ns = first.now_ns - (first.wall_ns - began)
    segments.sort(
        key=lambda each: (
            firsts[each.opening.log].wall_ns,
            each.opening.log,
            each.opening.number,
            not each.complete,
            -each.steps_count,
        )
    )


def _remove_copies(log: Log) -> None:
    """Remove copies of a segment; keep the one with the most steps, which comes first."""
    kept: list[Segment] = []
    for segment in log.segments:
        opening = segment.opening
        if kept and (opening.log, opening.number) == (
            kept[-1].opening.log,
            kept[-1].opening.number,
        ):
            log.faults.append(
                f"{segment.name}: it is left out, because {kept[-1].path.name} has it, too"
            )
        else:
            kept.append(segment)
    log.segments = kept


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        return [path]
    files = sorted(path.glob(f"{JOURNAL}-*{SUFFIX}"))
    if not files:
        raise InputError(
            f"{path}: the folder has no journal; give a folder with files {JOURNAL}-*{SUFFIX},"
            " or one file, such as a flight record"
        )
    return files


def _take(log: Log, path: Path, data: bytes, piece: Piece, name: str) -> None:
    frames = {each.kind: each for each in reversed(piece.frames)}
    try:
        if FrameKind.INCIDENT in frames:
            log.incident = Incident.of(payload(data, frames[FrameKind.INCIDENT]))
        elif FrameKind.OPENING in frames and FrameKind.STATE in frames:
            segment, lost = _segment(path, data, piece, frames)
            log.segments.append(segment)
            name = segment.name
            if lost:
                log.faults.append(
                    f"{name}: {lost} steps after it were dropped, because the recorder was behind"
                )
        elif not piece.fault:
            log.faults.append(f"{name}: it has no snapshot to start from")
    except CodecError as error:
        log.faults.append(f"{name}: {error}")
    if piece.fault:
        log.faults.append(f"{name}: {piece.fault}")


def _segment(
    path: Path, data: bytes, piece: Piece, frames: dict[FrameKind, Frame]
) -> tuple[Segment, int]:
    """The segment, and how many steps after it were dropped."""
    opening = Opening.of(payload(data, frames[FrameKind.OPENING]))
    try:
        decoder = _decoder(opening.schema)
    except CodecError as error:
        raise _explained(error, opening) from None
    blocks = [each for each in piece.frames if each.kind is FrameKind.STEPS]
    steps = requests = lost = 0
    last_ns = opening.now_ns
    for block in blocks:
        held = counts(data, block)
        steps, requests, last_ns = steps + held.steps, requests + held.requests, held.last_ns
    complete = False
    if FrameKind.END in frames:
        counted, lost = payload(data, frames[FrameKind.END])
        complete = counted == steps and not lost
    return (
        Segment(
            path=path,
            start=piece.start,
            opening=opening,
            decoder=decoder,
            _state=frames[FrameKind.STATE],
            _blocks=blocks,
            steps_count=steps,
            requests=requests,
            last_ns=last_ns,
            ended=FrameKind.END in frames or bool(piece.fault),
            complete=complete,
        ),
        lost,
    )


def _explained(error: CodecError, opening: Opening) -> CodecError:
    """The error for a log of another scheduler, with what to do about it."""
    if opening.scheduler in {"", scheduler_fingerprint()}:
        return error
    return CodecError(
        f"it was recorded by another version ({opening.recorded_by}) than this one (batcher"
        f" {__version__}, scheduler {scheduler_fingerprint()}), which cannot read it: {error}; replay"
        " it with the version that recorded it, or record again with this one"
    )


@lru_cache
def _decoder(schema: Schema) -> Decoder:
    return Decoder(schema)


def plain(value: Any) -> Any:
    """A decoded value with lists in place of tuples, for JSON and configuration documents."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
