"""The flight recorder: writes the segments in memory to a file when an incident happens.

An incident is: too few requests answered in time, a failure of an executor, a signal, or a call of
the admin service (for crashes see `crash`). The first two are detected once a second from counts of
telemetry and reported once, until there was none for `WINDOW` seconds. Files are limited in number
and frequency: an incident that follows too soon is written when the interval is over, with what is
in memory then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from batcher import __version__
from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.config import FlightRecorderConfig
from batcher.errors import FlightRecordFailed, RateLimited
from batcher.journal.format import Incident, incident_bytes
from batcher.journal.reader import SUFFIX
from batcher.journal.segment_files import PRIVATE, delete_oldest, write_all
from batcher.journal.segment_memory import SegmentMemory

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
"""Seconds between two checks for incidents."""

PART: Final = ".part"
"""The suffix of a file that is not yet complete."""

WINDOW: Final = 10
"""The last so many ticks are what `min_on_time_ratio` is about; and so long must be well between incidents."""

LEAST_REQUESTS: Final = 50
"""With fewer requests in the window, the ratio in time is not checked."""

PACKAGES: Final = (
    "grpcio",
    "protobuf",
    "numpy",
    "uvloop",
    "msgpack",
    "onnxruntime",
    "openvino",
    "torch",
)
"""The packages whose versions are in a flight record."""


class IncidentReason(StrEnum):
    """Why a flight record was written."""

    TARGET_MISSED = "target_missed"
    EXECUTOR_FAILURE = "executor_failure"
    SIGNAL = "signal"
    REQUEST = "request"
    INTERNAL = "internal"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one model's requests since the server started."""

    ended: int = 0
    """Requests that ended, except those that ended because of their caller."""
    on_time: int = 0
    """Requests that were answered in time."""
    failures: int = 0
    """Requests that failed because of an executor or its device."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The settings in force."""

    text: str
    """The text of the configuration file that was applied last."""
    changes: tuple[str, ...] = ()
    """Changes by admin calls since then, as `MODEL/VERSION PATH: VALUE`."""


class FlightRecorder:
    """Detects incidents and writes flight records. Call every method on the event loop's thread.

    `mark` returns a future that is done when all steps so far are in `memory`; `metrics` renders the
    text of `/metrics`; `in_force` returns the settings in force.
    """

    def __init__(
        self,
        settings: FlightRecorderConfig,
        memory: SegmentMemory,
        mark: Callable[[], Future[None]],
        metrics: Callable[[], Awaitable[bytes]],
        in_force: Callable[[], InForce],
        *,
        clock: Clock = monotonic_ns,
    ) -> None:
        self.written: dict[str, int] = dict.fromkeys(IncidentReason, 0)
        """Files written, by reason."""
        self.memory = memory
        self._settings = settings
        self._mark = mark
        self._metrics = metrics
        self._in_force = in_force
        self._clock = clock
        self._last_ns: int | None = None
        self._writing: set[asyncio.Task[Path]] = set()
        self._one_at_a_time = threading.Lock()
        self._past: deque[Mapping[str, Tally]] = deque([{}], maxlen=WINDOW + 1)
        self._last_seen: dict[tuple[IncidentReason, str], int] = {}
        self._detected: list[tuple[IncidentReason, str]] = []

    async def write(self, reason: IncidentReason, detail: str = "") -> Path:
        """Write a flight record now and return its path.

        It is completed even if the caller is cancelled. Raises `RateLimited` if the last one is
        younger than `min_interval`, and `FlightRecordFailed` if the file cannot be written.
        """
        wait_ns = self._wait_ns()
        if wait_ns:
            raise RateLimited(
                f"the last flight record was written less than"
                f" {self._settings.min_interval / SECOND:g} s ago (flight_recorder.min_interval)",
                retry_after_ns=wait_ns,
            )
        before_ns, self._last_ns = self._last_ns, self._clock()
        writing = asyncio.create_task(self._write(reason, detail, before_ns), name="flight-record")
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    async def _write(self, reason: IncidentReason, detail: str, before_ns: int | None) -> Path:
        """`before_ns` is the time of the last record, which is restored if this one fails."""
        try:
            in_force = self._in_force()
            metrics = (await self._metrics()).decode("utf-8", "replace")
            incident = describe_incident(reason, detail, in_force, metrics)
            await asyncio.wrap_future(self._mark())
            path = await asyncio.to_thread(self._write_file, incident)
        except OSError as error:
            self._last_ns = before_ns
            why = error.strerror or str(error)
            raise FlightRecordFailed(
                f"{self._settings.folder}: the flight record cannot be written: {why}"
            ) from error
        except BaseException:
            self._last_ns = before_ns
            raise
        self.written[reason] += 1
        log.warning("a flight record (%s) was written to %s: %s", reason.value, path, detail)
        return path

    async def watch(self, tallies: Callable[[], Mapping[str, Tally]]) -> None:
        """Detect and write incidents until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.check(tallies())
                await self.write_detected()
            except Exception:
                log.exception(
                    "internal error: the check for incidents failed; it is repeated in a second"
                )

    def check(self, tallies: Mapping[str, Tally]) -> None:
        """Detect incidents since the last call; call it once a second."""
        self._past.append(dict(tallies))
        for kind in list(self._last_seen):
            self._last_seen[kind] += 1
            if self._last_seen[kind] > WINDOW:
                del self._last_seen[kind]
        for model, now in tallies.items():
            last = self._past[-2].get(model, Tally())
            failures = now.failures - last.failures
            if failures > 0:
                self._detected_incident(
                    IncidentReason.EXECUTOR_FAILURE, model, f"{model}: {failures} requests failed"
                )
            self._check_times(model, self._past[0].get(model, Tally()), now)

    async def write_detected(self) -> None:
        """Write the detected incidents, unless the last record is too recent."""
        if not self._detected or self._wait_ns():
            return
        detected, self._detected = self._detected, []
        try:
            await self.write(detected[0][0], "; ".join(detail for _, detail in detected))
        except FlightRecordFailed as error:
            log.error("%s", error)  # noqa: TRY400 - one line says it

    def _check_times(self, model: str, then: Tally, now: Tally) -> None:
        threshold = self._settings.min_on_time_ratio
        ended = now.ended - then.ended
        if threshold is None or ended < LEAST_REQUESTS:
            return
        fraction = (now.on_time - then.on_time) / ended
        if fraction < threshold:
            seconds = (len(self._past) - 1) * TICK_S
            self._detected_incident(
                IncidentReason.TARGET_MISSED,
                model,
                f"{model}: {fraction:.1%} of {ended} requests in {seconds:g} s"
                " were answered in time",
            )

    def _detected_incident(self, reason: IncidentReason, model: str, detail: str) -> None:
        if (reason, model) not in self._last_seen:
            self._detected.append((reason, detail))
        self._last_seen[reason, model] = 0

    def _wait_ns(self) -> int:
        """Nanoseconds until the next record may be written."""
        if self._last_ns is None:
            return 0
        return max(0, self._last_ns + self._settings.min_interval - self._clock())

    def _write_file(self, incident: Incident) -> Path:
        settings = self._settings
        with self._one_at_a_time:
            return write_record(settings.folder, settings.max_files, incident, self.memory.frames())


def describe_incident(
    reason: IncidentReason, detail: str, in_force: InForce, metrics: str
) -> Incident:
    """An incident at this moment, in this process."""
    return Incident(
        reason=reason.value,
        detail=detail,
        wall_ns=time.time_ns(),
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=_versions(),
        config=in_force.text,
        metrics=metrics,
        changes=in_force.changes,
    )


def write_record(
    folder: Path, max_files: int, incident: Incident, segments: Iterable[bytes]
) -> Path:
    """Write a flight record; the oldest is deleted if there are too many. Raises `OSError`."""
    # Incomplete records of earlier servers count, too.
    files = [*folder.glob(f"incident-*{SUFFIX}"), *folder.glob(f"incident-*{PART}")]
    delete_oldest(files, max_files)
    moment = datetime.fromtimestamp(incident.wall_ns / SECOND, UTC)
    name = f"incident-{moment:%Y%m%dT%H%M%S.%f}-{incident.reason}"
    part = folder / f"{name}{PART}"
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        write_all(file, incident_bytes(incident))
        for data in segments:
            write_all(file, data)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    path = folder / f"{name}{SUFFIX}"
    part.rename(path)
    return path


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
