"""Notices that a file has changed, without a library: by looking at it now and then.

Looking follows symbolic links, so it sees all three ways in which files change: written in place,
another file renamed over them, and a link on the way that points elsewhere (how Kubernetes updates
the files of a ConfigMap). A file that has changed is read when two looks at it agree, and read again
when it changed meanwhile, so half a file is not taken for the whole.
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

Stamp: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, and when content and attributes changed: equal while the file is the same."""

SETTLING_S: Final = 0.1
"""How soon a file that has just changed is looked at again."""

MOST_READS: Final = 10
"""How often a file that changes while it is read is read again."""


_NOT_LOOKED_AT: Final = (-1, -1, -1, -1, -1)


class Look(Enum):
    """What a look at the file says."""

    SAME = "same"
    CHANGING = "changing"
    CHANGED = "changed"


class FileWatch:
    """Tells when the file at `path` is another one than at the last `Look.CHANGED`.

    The first file that it sees counts as changed: whoever read it before may have read another one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Stamp | None = _NOT_LOOKED_AT
        self._seen: Stamp | None = _NOT_LOOKED_AT

    def look(self) -> Look:
        """Look now. A file that is gone is a changed one, too."""
        stamp = stamp_of(self._path)
        if stamp == self._known:
            self._seen = stamp
            return Look.SAME
        if stamp != self._seen:
            self._seen = stamp
            return Look.CHANGING
        self._known = stamp
        return Look.CHANGED


def stamp_of(path: Path) -> Stamp | None:
    """The file's stamp, symbolic links followed; None where there is none to be seen."""
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


def read_settled(path: Path, pause: Callable[[float], None] = time.sleep) -> Config:
    """Load the file, once it does not change meanwhile. Blocks: not for the event loop's thread.

    Raises ConfigError.
    """
    for _ in range(MOST_READS):
        before = stamp_of(path)
        failed: ConfigError | None = None
        config: Config | None = None
        try:
            config = load_config(path)
        except ConfigError as error:
            failed = error
        if stamp_of(path) == before:
            if config is not None:
                return config
            assert failed is not None  # noqa: S101 - one of the two
            raise failed
        pause(SETTLING_S)
    raise ConfigError([f"changed each of {MOST_READS} times that it was read"], source=str(path))


class FileFollower:
    """Has the file read again when it changes, and when it is told to."""

    def __init__(
        self,
        path: Path,
        interval_ns: int,
        reload: Callable[[ChangeSource], Awaitable[object]],
        hangup: asyncio.Event | None = None,
    ) -> None:
        """Look every `interval_ns` (never, if that is 0); read at once when `hangup` is set."""
        self._interval_s = interval_ns / SECOND if interval_ns else None
        self._watch = FileWatch(path)
        self._reload = reload
        self._hangup = asyncio.Event() if hangup is None else hangup

    async def run(self) -> NoReturn:
        """Follow the file until cancelled. What is wrong with it has been logged by `reload`."""
        look = Look.SAME
        while True:
            hangup = await self._wait(SETTLING_S if look is Look.CHANGING else self._interval_s)
            look = Look.SAME
            if hangup:
                await self._reload_as(ChangeSource.SIGNAL)
            else:
                look = await asyncio.to_thread(self._watch.look)
                if look is Look.CHANGED:
                    await self._reload_as(ChangeSource.FILE)

    async def _wait(self, timeout_s: float | None) -> bool:
        """Wait for a hangup, or for the time to look again; returns which."""
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
            log.exception("the configuration file could not be followed")
