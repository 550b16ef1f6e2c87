"""The flight recorder: what is in memory becomes a file when something goes wrong.

An incident is that too few requests were answered in time, that an executor failed, a signal, or a
call of the admin service (for a crash, see `crash`). The first two are looked for once a second, in counts that telemetry has
anyway, and are told once: again only after things have been well in between. Files are limited in
number and in frequency; an incident that comes too soon after another is written when it may be, with
what is in memory then.
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
from batcher.journal.files import PRIVATE, make_room, write_all
from batcher.journal.format import Incident, incident_bytes
from batcher.journal.memory import Memory
from batcher.journal.reader import SUFFIX

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
"""How often incidents are looked for."""

PART: Final = ".part"
"""How a file ends that is not written to its end."""

WINDOW: Final = 10
"""The last so many ticks are what `min_on_time_ratio` is about; and so long must be well between incidents."""

LEAST_REQUESTS: Final = 50
"""Fewer requests in the window say nothing."""

PACKAGES: Final = ("grpcio", "protobuf", "numpy", "uvloop", "msgpack", "onnxruntime")
"""Whose versions an incident names."""


class Reason(StrEnum):
    """Why a flight record was written."""

    TARGET_MISSED = "target_missed"
    EXECUTOR_FAILURE = "executor_failure"
    SIGNAL = "signal"
    REQUEST = "request"
    INTERNAL = "internal"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one model since the server started."""

    ended: int = 0
    """Requests that ended, but for those whose own caller was to blame."""
    on_time: int = 0
    """Those that were answered in time."""
    failures: int = 0
    """Those that failed because an executor or its device did."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The settings in force."""

    text: str
    """Of the configuration file that was applied last."""
    changes: tuple[str, ...] = ()
    """What admin calls have changed since, as `MODEL/VERSION PATH: VALUE`."""


class FlightRecorder:
    """Writes incidents. Every method runs on the event loop's thread.

    `mark` gives a future that is done when all that has happened is in `memory`; `metrics` renders
    the text of `/metrics`; `in_force` says what settings are in force.
    """

    def __init__(
        self,
        settings: FlightRecorderConfig,
        memory: Memory,
        mark: Callable[[], Future[None]],
        metrics: Callable[[], Awaitable[bytes]],
        in_force: Callable[[], InForce],
        *,
        clock: Clock = monotonic_ns,
    ) -> None:
        self.written: dict[str, int] = dict.fromkeys(Reason, 0)
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
        self._unwell: dict[tuple[Reason, str], int] = {}
        self._noticed: list[tuple[Reason, str]] = []

    async def write(self, reason: Reason, detail: str = "") -> Path:
        """Write a file now, and return its path.

        What was begun is written to its end, also where the caller is cancelled meanwhile. Raises
        `RateLimited` when the last one is younger than `min_interval`, and `FlightRecordFailed` when the
        file cannot be written.
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

    async def _write(self, reason: Reason, detail: str, before_ns: int | None) -> Path:
        """`before_ns` is when the last file was begun, should nothing come of this one."""
        try:
            in_force = self._in_force()
            metrics = (await self._metrics()).decode("utf-8", "replace")
            incident = describe(reason, detail, in_force, metrics)
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
        log.warning("an incident (%s) was written to %s: %s", reason.value, path, detail)
        return path

    async def watch(self, tallies: Callable[[], Mapping[str, Tally]]) -> None:
        """Look for incidents for ever, and write them."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.look(tallies())
                await self.write_noticed()
            except Exception:
                log.exception("incidents could not be looked for; they are again in a second")

    def look(self, tallies: Mapping[str, Tally]) -> None:
        """Notice what has happened since the last look; once a second."""
        self._past.append(dict(tallies))
        for kind in list(self._unwell):
            self._unwell[kind] += 1
            if self._unwell[kind] > WINDOW:
                del self._unwell[kind]
        for model, now in tallies.items():
            last = self._past[-2].get(model, Tally())
            failures = now.failures - last.failures
            if failures > 0:
                self._notice(Reason.EXECUTOR_FAILURE, model, f"{model}: {failures} requests failed")
            self._look_at_times(model, self._past[0].get(model, Tally()), now)

    async def write_noticed(self) -> None:
        """Write what was noticed, unless it is too soon: then it waits."""
        if not self._noticed or self._wait_ns():
            return
        noticed, self._noticed = self._noticed, []
        try:
            await self.write(noticed[0][0], "; ".join(detail for _, detail in noticed))
        except FlightRecordFailed as error:
            log.error("%s", error)  # noqa: TRY400 - one line says it

    def _look_at_times(self, model: str, then: Tally, now: Tally) -> None:
        threshold = self._settings.min_on_time_ratio
        ended = now.ended - then.ended
        if threshold is None or ended < LEAST_REQUESTS:
            return
        fraction = (now.on_time - then.on_time) / ended
        if fraction < threshold:
            seconds = (len(self._past) - 1) * TICK_S
            self._notice(
                Reason.TARGET_MISSED,
                model,
                f"{model}: {fraction:.1%} of {ended} requests in {seconds:g} s"
                " were answered in time",
            )

    def _notice(self, reason: Reason, model: str, detail: str) -> None:
        if (reason, model) not in self._unwell:
            self._noticed.append((reason, detail))
        self._unwell[reason, model] = 0

    def _wait_ns(self) -> int:
        """How long until the next file may be written."""
        if self._last_ns is None:
            return 0
        return max(0, self._last_ns + self._settings.min_interval - self._clock())

    def _write_file(self, incident: Incident) -> Path:
        settings = self._settings
        with self._one_at_a_time:
            return write_record(settings.folder, settings.max_files, incident, self.memory.frames())


def describe(reason: Reason, detail: str, in_force: InForce, metrics: str) -> Incident:
    """An incident of this moment, in this process."""
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
    """Write a flight record, in place of the oldest where there are too many. Raises `OSError`."""
    # What a server left that ended while it wrote counts, too.
    files = [*folder.glob(f"incident-*{SUFFIX}"), *folder.glob(f"incident-*{PART}")]
    make_room(files, max_files)
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
