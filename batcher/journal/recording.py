"""What a configuration asks to be recorded, as one object to start and to close."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batcher.config import Config, FlightRecorderConfig
from batcher.core.commands import Command
from batcher.core.events import Event
from batcher.core.state import State
from batcher.errors import StartupError
from batcher.journal.crash import LiveLog, salvage
from batcher.journal.flight_recorder import (
    FlightRecorder,
    IncidentReason,
    InForce,
    describe_incident,
)
from batcher.journal.recorder import Recorder, Sink
from batcher.journal.segment_files import SEGMENTS_IN_SIZE, SegmentFiles
from batcher.journal.segment_memory import SegmentMemory

log = logging.getLogger(__name__)

SEGMENT_NS: Final = 10_000_000_000
"""Nanoseconds of a segment when there is only a flight recorder."""

Record = Callable[[int, Sequence[Event], Sequence[Command]], None]


@dataclass(frozen=True, slots=True)
class RecordingStatistics:
    """The counts of a recording for `/metrics`."""

    written_bytes: int = 0
    lost_segments: int = 0
    memory_bytes: int = 0
    incidents: Mapping[str, int] = field(default_factory=dict)
    """Flight records written, by reason."""


class Recording:
    """The journal and the flight recorder of one server, as its configuration says."""

    def __init__(
        self,
        config: Config,
        snapshot: Callable[[], State],
        models: Callable[[], Mapping[str, Mapping[str, Any]]],
        metrics: Callable[[], Awaitable[bytes]],
        in_force: Callable[[], InForce],
    ) -> None:
        self.flight: FlightRecorder | None = None
        """Set by `start`, if one is configured."""
        self._config = config
        self._snapshot = snapshot
        self._models = models
        self._metrics = metrics
        self._in_force = in_force
        self._files: SegmentFiles | None = None
        self._memory: SegmentMemory | None = None
        self._recorder: Recorder | None = None

    async def start(self) -> Record | None:
        """Begin to record. Returns the function to call after every step; None if nothing records.

        First makes flight records of what crashed servers left. Raises `StartupError` if a folder
        cannot be written to.
        """
        journal, flight = self._config.journal, self._config.flight_recorder
        crashed = 0
        if flight is not None:
            crashed = await asyncio.to_thread(salvage, flight.folder, flight.max_files)
        sinks: list[Sink] = []
        lengths: list[int] = []
        sizes: list[int] = []
        if journal is not None:
            _make_folder(journal.folder, "journal.folder")
            self._files = SegmentFiles(journal.folder, journal.max_segments, journal.max_size)
            sinks.append(self._files)
            lengths.append(journal.segment_duration)
            sizes.append(journal.max_size // SEGMENTS_IN_SIZE)
        if flight is not None:
            _make_folder(flight.folder, "flight_recorder.folder")
            self._memory = SegmentMemory(flight.duration, flight.max_memory)
            sinks.append(self._memory)
            lengths.append(min(SEGMENT_NS, max(1, flight.duration // SEGMENTS_IN_SIZE)))
            sizes.append(flight.max_memory // SEGMENTS_IN_SIZE)
            live = self._live_log(flight, min(lengths), min(sizes))
            if live is not None:
                sinks.append(live)
        if not sinks:
            return None
        recorder = self._recorder = Recorder(
            self._snapshot,
            sinks,
            segment_ns=min(lengths),
            most_bytes=min(sizes),
            models=self._models,
        )
        if flight is not None and self._memory is not None:
            self.flight = FlightRecorder(
                flight, self._memory, recorder.mark, self._metrics, self._in_force
            )
            self.flight.written[IncidentReason.CRASH] += crashed
        return recorder.record

    def _live_log(
        self, flight: FlightRecorderConfig, segment_ns: int, segment_bytes: int
    ) -> LiveLog | None:
        """The log that survives a crash; None if its folder cannot be made or locked."""
        detail = f"the server with process id {os.getpid()} crashed or was killed"
        head = describe_incident(IncidentReason.CRASH, detail, self._in_force(), "")
        # It reaches as far back as the memory does, by time or by bytes.
        most = max(flight.duration // segment_ns, flight.max_memory // segment_bytes) + 1
        try:
            return LiveLog(flight.folder, head, most, flight.max_memory)
        except OSError as error:
            log.warning(
                "flight_recorder.folder: %s: %s; a crash of this server will leave no flight record",
                flight.folder,
                error.strerror,
            )
            return None

    def close(self) -> None:
        """Write the remaining steps. Record nothing after this."""
        if self._recorder is not None:
            self._recorder.close()

    @property
    def active(self) -> bool:
        """Whether steps are recorded."""
        return self._recorder is not None

    def statistics(self) -> RecordingStatistics:
        """The counts of this moment."""
        files, recorder = self._files, self._recorder
        return RecordingStatistics(
            written_bytes=files.written_bytes if files else 0,
            lost_segments=(files.lost_segments if files else 0)
            + (recorder.lost_segments if recorder else 0),
            memory_bytes=self._memory.nbytes if self._memory else 0,
            incidents=dict(self.flight.written) if self.flight else {},
        )


def _make_folder(folder: Path, key: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        test_file = folder / ".writable"
        test_file.touch()
        test_file.unlink()
    except OSError as error:
        raise StartupError(
            f"{key}: got {folder}, {error.strerror}; allowed: a folder that can be written to"
        ) from None
