"""Counts of changes of settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


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


class SettingsTelemetry:
    """Counts changes by source and result. `epoch` gives Unix time in seconds."""

    def __init__(self, epoch: Callable[[], float] = time.time) -> None:
        self.changes: dict[tuple[str, ...], int] = {
            (source.value, result.value): 0 for source in ChangeSource for result in ChangeResult
        }
        self.generation = 1
        self.changed_at_s = epoch()
        self._epoch = epoch

    def count(self, source: ChangeSource, result: ChangeResult) -> None:
        """One more change that was asked for; an applied one makes another generation."""
        self.changes[source.value, result.value] += 1
        if result is ChangeResult.APPLIED:
            self.generation += 1
            self.changed_at_s = self._epoch()
