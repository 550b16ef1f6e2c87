"""Writes segments to files, one file each, on a thread of its own; deletes the oldest.

A slow disk delays nothing: the bytes that wait for it are bounded, and beyond that bound the rest of
the segment is dropped. The next segment begins with a snapshot of its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeAlias

from batcher.journal.reader import JOURNAL, SUFFIX

log = logging.getLogger(__name__)

MAX_QUEUED_BYTES: Final = 16 * 1024**2
"""Bytes that may wait for the disk; beyond it the rest of a segment is lost."""

SEGMENTS_IN_SIZE: Final = 8
"""The size limit divided by this is the size of a segment. The oldest files are deleted so that two
segments fit within the limit."""

CLOSE_TIMEOUT_S: Final = 5.0
"""Seconds that the last bytes may take to be written when the server stops."""

PRIVATE: Final = 0o600
"""The mode of the files: only their owner may read tenants and settings."""

_Job: TypeAlias = tuple[bool, bytes]
"""(whether a segment begins, bytes of it)."""


class SegmentFiles:
    """A sink of the recorder that writes each segment to a file in `folder`.

    Keeps at most `most_files` files and `most_bytes` bytes, including files of earlier servers.
    `what` is what log messages call the files.
    """

    def __init__(
        self, folder: Path, most_files: int, most_bytes: int, *, what: str = "the journal"
    ) -> None:
        self.written_bytes = 0
        self.lost_segments = 0
        """Segments that are missing or incomplete."""
        self._folder = folder
        self._what = what
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._began = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._number = 0
        self._put_bytes = 0
        self._taken_bytes = 0
        self._skipping = False
        self._file: int | None = None
        self._failing = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    # On the recorder's thread

    def begin(self, now_ns: int, opening: bytes) -> None:  # noqa: ARG002 - the protocol's signature
        """Begin a segment, unless the disk is behind."""
        self._skipping = self._waiting > MAX_QUEUED_BYTES // 2
        if self._skipping:
            self.lost_segments += 1
        else:
            self._put(opening, begins=True)

    def add(self, frame: bytes) -> None:
        """Add a frame to it, unless the disk is behind."""
        if self._skipping:
            return
        if self._waiting + len(frame) > MAX_QUEUED_BYTES:
            self._skipping = True
            self.lost_segments += 1
            log.error(
                "%s: the disk is behind by %d bytes; the rest of this segment is not written. Use a faster"
                " disk for its folder",
                self._what,
                self._waiting,
            )
            return
        self._put(frame, begins=False)

    def close(self) -> None:
        """Write the waiting bytes and end the thread, within `CLOSE_TIMEOUT_S`."""
        self._jobs.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.error(
                "%s: the disk is too slow: the end of %s is not written", self._folder, self._what
            )

    @property
    def _waiting(self) -> int:
        return self._put_bytes - self._taken_bytes

    def _put(self, data: bytes, *, begins: bool) -> None:
        self._put_bytes += len(data)
        self._jobs.put((begins, data))

    # On the writing thread

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            begins, data = job
            try:
                if begins:
                    self._next_file()
                if self._file is not None:
                    write_all(self._file, data)
                    self.written_bytes += len(data)
                    self._failing = False
            except OSError as error:
                self._failed(error)
            self._taken_bytes += len(data)
        self._close_file()

    def _next_file(self) -> None:
        self._close_file()
        delete_oldest(
            self._folder.glob(f"{JOURNAL}-*{SUFFIX}"),
            self._most_files,
            self._most_bytes - 2 * (self._most_bytes // SEGMENTS_IN_SIZE),
        )
        path = self._folder / f"{JOURNAL}-{self._began}-{self._number:08d}{SUFFIX}"
        self._number += 1
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)

    def _failed(self, error: OSError) -> None:
        self.lost_segments += 1
        self._close_file()
        if not self._failing:
            log.error(
                "%s: %s cannot be written: %s; the next segment is tried again",
                self._folder,
                self._what,
                error.strerror,
            )
        self._failing = True

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def write_all(file: int, data: bytes) -> None:
    """Write all bytes to a file descriptor. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def delete_oldest(found: Iterable[Path], most_files: int, most_bytes: int | None = None) -> None:
    """Delete the oldest files, by name, until one more fits the limits. Raises `OSError`."""
    files = sorted(found)
    sizes = {file: file.stat().st_size for file in files}
    total = sum(sizes.values())
    while files and (len(files) >= most_files or (most_bytes is not None and total > most_bytes)):
        oldest = files.pop(0)
        oldest.unlink(missing_ok=True)
        total -= sizes[oldest]
