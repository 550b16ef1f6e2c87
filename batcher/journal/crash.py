"""Keeps the flight recorder's segments on disk as well, so that they survive a crash of the process.

A running server has a folder `live-*` beside the flight records. It contains the head of a future
flight record, a file that is locked while the process lives, and the segments, as in a journal.
Nothing is synced, because what was written is in the kernel and outlives the process. A server that
closes removes its folder. The next server to start makes a flight record of each folder whose head
is not locked.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from batcher.journal.codec import CodecError
from batcher.journal.flight_recorder import write_record
from batcher.journal.format import FrameKind, Incident, counts, incident_bytes, payload, pieces
from batcher.journal.reader import JOURNAL, SUFFIX
from batcher.journal.segment_files import PRIVATE, SegmentFiles, write_all

log = logging.getLogger(__name__)

LIVE: Final = "live-"
"""The prefix of the folders of running servers."""

HEAD: Final = "head"
"""The locked file in such a folder: the incident that a crash will be reported as."""


class LiveLog(SegmentFiles):
    """A sink of the recorder whose files are removed when it is closed, and remain after a crash.

    `folder` is the folder of the flight records, and `head` the incident to report a crash as.
    Raises `OSError` if the folder cannot be made or locked.
    """

    def __init__(self, folder: Path, head: Incident, most_files: int, most_bytes: int) -> None:
        made = Path(tempfile.mkdtemp(prefix=f".{LIVE}", dir=folder))
        self._lock = os.open(made / HEAD, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_all(self._lock, incident_bytes(head))
            # Other servers see it from here on, and find it locked.
            self.folder = made.rename(folder / made.name.removeprefix("."))
        except BaseException:
            os.close(self._lock)
            shutil.rmtree(made, ignore_errors=True)
            raise
        super().__init__(self.folder, most_files, most_bytes, what="the crash log")

    def close(self) -> None:
        """End the writing thread and remove the folder."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def salvage(folder: Path, max_files: int) -> int:
    """Make flight records of the folders that crashed servers left. Returns how many."""
    written = 0
    for left in sorted(folder.glob(f"{LIVE}*")):
        try:
            with (left / HEAD).open("r+b") as head:
                fcntl.flock(head, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another starting server may have removed it between these two lines.
                if (left / HEAD).exists():
                    written += _write(left, head, max_files)
                    shutil.rmtree(left)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError as error:
            log.error(  # noqa: TRY400 - the message has the reason
                "%s: a server crashed, and its flight record cannot be written: %s", left, error
            )
    return written


def _write(left: Path, head: IO[bytes], max_files: int) -> bool:
    """Write a flight record if the server had requests; returns whether. Raises `OSError`."""
    files = sorted(left.glob(f"{JOURNAL}-*{SUFFIX}"))
    try:
        if not any(_has_requests(file.read_bytes()) for file in files):
            # A server that crashes at each start would push out the record of the first crash.
            log.warning(
                "%s: a server crashed before its first request; no flight record is written", left
            )
            return False
        incident = replace(_incident(head.read()), wall_ns=files[-1].stat().st_mtime_ns)
    except CodecError as error:
        log.error("%s: a server crashed, and its log cannot be read: %s", left, error)  # noqa: TRY400
        return False
    path = write_record(left.parent, max_files, incident, (file.read_bytes() for file in files))
    log.warning("%s; its last minutes were written to %s", incident.detail, path)
    return True


def _has_requests(data: bytes) -> bool:
    """Whether any request arrived in these segments, whichever version recorded them."""
    return any(
        frame.kind is FrameKind.STEPS and counts(data, frame).requests
        for piece in pieces(data)
        for frame in piece.frames
    )


def _incident(data: bytes) -> Incident:
    for piece in pieces(data):
        for frame in piece.frames:
            if frame.kind is FrameKind.INCIDENT:
                return Incident.of(payload(data, frame))
    raise CodecError(f"{HEAD} has no incident")
