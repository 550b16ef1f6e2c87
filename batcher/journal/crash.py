"""What the flight recorder holds, on disk as well, so that a process that dies leaves it behind.

A running server has a folder of its own beside the flight records, `live-*`. In it are a file with
what the flight record will begin with, locked while the process lives, and the segments in memory as those
of a journal. Nothing is synced: what was written is with the kernel, and outlives the process. A
server that closes removes its folder. The next one to start makes a flight record of each that
nothing holds any more.
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
from batcher.journal.files import PRIVATE, Files, write_all
from batcher.journal.format import FrameKind, Incident, counts, incident_bytes, payload, pieces
from batcher.journal.incidents import write_record
from batcher.journal.reader import JOURNAL, SUFFIX

log = logging.getLogger(__name__)

LIVE: Final = "live-"
"""How the folders of running servers begin."""

HEAD: Final = "head"
"""The file in such a folder that is locked, and holds the incident that a crash will have been."""


class LiveLog(Files):
    """A recorder's sink whose files are gone once it is closed, and there after a crash.

    `folder` is that of the flight records, and `head` what the crash will be told as. Raises `OSError` where the folder cannot be made or
    locked.
    """

    def __init__(self, folder: Path, head: Incident, most_files: int, most_bytes: int) -> None:
        made = Path(tempfile.mkdtemp(prefix=f".{LIVE}", dir=folder))
        self._lock = os.open(made / HEAD, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_all(self._lock, incident_bytes(head))
            # From here on others look at it, and find it locked.
            self.folder = made.rename(folder / made.name.removeprefix("."))
        except BaseException:
            os.close(self._lock)
            shutil.rmtree(made, ignore_errors=True)
            raise
        super().__init__(self.folder, most_files, most_bytes, what="the log for a crash")

    def close(self) -> None:
        """End the thread and remove the folder."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def salvage(folder: Path, max_files: int) -> int:
    """Make flight records of what servers left that did not close. Returns how many."""
    written = 0
    for left in sorted(folder.glob(f"{LIVE}*")):
        try:
            with (left / HEAD).open("r+b") as head:
                fcntl.flock(head, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another server that starts may have taken it between these two lines.
                if (left / HEAD).exists():
                    written += _write(left, head, max_files)
                    shutil.rmtree(left)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError as error:
            log.error("%s: no flight record can be made of it: %s", left, error)  # noqa: TRY400
    return written


def _write(left: Path, head: IO[bytes], max_files: int) -> bool:
    """Whether there was anything to write. Raises `OSError`."""
    files = sorted(left.glob(f"{JOURNAL}-*{SUFFIX}"))
    try:
        if not any(_has_requests(file.read_bytes()) for file in files):
            # A server that crashes at each start would push out what the first crash has left.
            log.warning("%s: a server ended without closing before it got any request", left)
            return False
        incident = replace(_incident(head.read()), wall_ns=files[-1].stat().st_mtime_ns)
    except CodecError as error:
        log.error("%s: what a crash has left cannot be read: %s", left, error)  # noqa: TRY400
        return False
    path = write_record(left.parent, max_files, incident, (file.read_bytes() for file in files))
    log.warning("%s; its last minutes were written to %s", incident.detail, path)
    return True


def _has_requests(data: bytes) -> bool:
    """Whether a request arrived in these segments, whatever version recorded them."""
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
    raise CodecError(f"{HEAD} holds no incident")
