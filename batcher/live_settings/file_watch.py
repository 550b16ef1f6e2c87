"""Polls a file for changes and reads it when it is complete.

A poll follows symbolic links, so it sees all three ways in which a file changes: written in place,
replaced by a rename, and reached by a link that now points elsewhere (how Kubernetes updates the
files of a ConfigMap). A changed file is read once two polls in a row agree, and read again if it
changes meanwhile, so that a half-written file is not taken for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from batcher.clock import SECOND
from batcher.config import Config, load_config
from batcher.errors import BatcherError, ConfigError
from batcher.telemetry import ChangeSource

log = logging.getLogger(__name__)

FileStamp: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, and when content and attributes changed: equal while the file is the same."""

SETTLING_S: Final = 0.1
"""Seconds until the next poll of a file that has just changed."""

MAX_READS: Final = 10
"""Attempts to read a file that changes while it is read."""


_NEVER_POLLED: Final = (-1, -1, -1, -1, -1)


class FileState(Enum):
    """What a poll found: no change, a change in progress, or a complete change."""

    SAME = "same"
    CHANGING = "changing"
    CHANGED = "changed"


class FileWatch:
    """Compares the file at `path` with the one at the last `FileState.CHANGED`.

    The first file that it sees counts as changed, because the file may have changed since the
    server read it at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: FileStamp | None = _NEVER_POLLED
        self._seen: FileStamp | None = _NEVER_POLLED

    def check(self) -> FileState:
        """Poll the file now. A file that is gone counts as changed."""
        stamp = file_stamp(self._path)
        if stamp == self._known:
            self._seen = stamp
            return FileState.SAME
        if stamp != self._seen:
            self._seen = stamp
            return FileState.CHANGING
        self._known = stamp
        return FileState.CHANGED


def file_stamp(path: Path) -> FileStamp | None:
    """The stamp of the file that `path` leads to; None if it cannot be read."""
    try:
        status = os.stat(path)  # noqa: PTH116 - one call, no object
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def read_stable(path: Path, pause: Callable[[float], None] = time.sleep) -> Config:
    """Load a configuration that does not change while it is read. Blocks: call it on a thread.

    Raises `ConfigError` for a file that is wrong or changes during each of `MAX_READS` reads.
    """
    for _ in range(MAX_READS):
        before = file_stamp(path)
        failed: ConfigError | None = None
        config: Config | None = None
        try:
            config = load_config(path)
        except ConfigError as error:
            failed = error
        if file_stamp(path) == before:
            if config is not None:
                return config
            assert failed is not None  # noqa: S101 - one of the two
            raise failed
        pause(SETTLING_S)
    raise ConfigError(
        [f"changed during each of {MAX_READS} reads; write it once, or rename over it"],
        source=str(path),
    )


class FileFollower:
    """Calls `reload` when the file changes and when `hangup` is set."""

    def __init__(
        self,
        path: Path,
        interval_ns: int,
        reload: Callable[[ChangeSource], Awaitable[object]],
        hangup: asyncio.Event | None = None,
    ) -> None:
        """Poll every `interval_ns` nanoseconds (0: never); reload at once when `hangup` is set."""
        self._interval_s = interval_ns / SECOND if interval_ns else None
        self._watch = FileWatch(path)
        self._reload = reload
        self._hangup = asyncio.Event() if hangup is None else hangup

    async def run(self) -> NoReturn:
        """Follow the file until cancelled. `reload` logs what is wrong with it."""
        state = FileState.SAME
        while True:
            hangup = await self._wait(
                SETTLING_S if state is FileState.CHANGING else self._interval_s
            )
            state = FileState.SAME
            if hangup:
                await self._reload_as(ChangeSource.SIGNAL)
            else:
                state = await asyncio.to_thread(self._watch.check)
                if state is FileState.CHANGED:
                    await self._reload_as(ChangeSource.FILE)

    async def _wait(self, timeout_s: float | None) -> bool:
        """Wait for a hangup (returns True) or for the time of the next poll (False)."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._hangup.wait()
        except TimeoutError:
            return False
        self._hangup.clear()
        return True

    async def _reload_as(self, source: ChangeSource) -> None:
        try:
            await self._reload(source)
        except BatcherError:
            return
        except Exception:
            log.exception(
                "internal error: the configuration file could not be reloaded; it is polled on"
            )
