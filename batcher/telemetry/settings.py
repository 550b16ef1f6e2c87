"""Counts of changes of settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias


class ChangeSource(StrEnum):
    """What asked for a change: the watched file, SIGHUP, or an admin call."""

    FILE = "file"
    SIGNAL = "signal"
    RPC = "rpc"


class ChangeResult(StrEnum):
    """What became of it."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    FAILED = "failed"


ChangeWatcher: TypeAlias = Callable[[ChangeSource, ChangeResult, str], None]


class SettingsTelemetry:
    """Counts changes by source and result. `epoch` gives Unix time in seconds."""

    def __init__(self, epoch: Callable[[], float] = time.time) -> None:
        self.changes: dict[tuple[str, ...], int] = {
            (source.value, result.value): 0 for source in ChangeSource for result in ChangeResult
        }
        self.generation = 1
        self.changed_at_s = epoch()
        self._epoch = epoch
        self._watcher: ChangeWatcher | None = None

    def watch(self, watcher: ChangeWatcher) -> None:
        """Call `watcher` with each change that was asked for from now on, and what is said of it."""
        self._watcher = watcher

    def count(self, source: ChangeSource, result: ChangeResult, detail: str = "") -> None:
        """One more change that was asked for; an applied one makes another generation.

        `detail` says what was changed, or why nothing was.
        """
        self.changes[source.value, result.value] += 1
        if result is ChangeResult.APPLIED:
            self.generation += 1
            self.changed_at_s = self._epoch()
        if self._watcher is not None:
            self._watcher(source, result, detail)
