"""A scheduler that records an event log under virtual time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from batcher.core.commands import Command
from batcher.core.events import Event
from batcher.core.policies import PolicyFactory, make_policy
from batcher.core.scheduler import Scheduler
from batcher.journal.recorder import MAX_WAITING_STEPS, Recorder
from batcher.journal.segment_files import SegmentFiles

_NO_BOUND: Final = 1 << 40


class RecordedScheduler(Scheduler):
    """The production scheduler with the production recorder behind it, as a context manager.

    The log goes to `folder`; leaving the block writes what is left. Virtual time runs faster than the
    thread of the recorder, which is waited for every so often, so that nothing is lost. The log begins
    at `begins_ns` of the virtual clock, which is `wall_ns` of Unix time (default: now).
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_ns: int,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        policies: PolicyFactory = make_policy,
        begins_ns: int = 0,
        wall_ns: int | None = None,
    ) -> None:
        super().__init__(policies)
        self.now_ns = self.contents.now_ns = begins_ns
        self.recorder = Recorder(
            self.snapshot,
            [SegmentFiles(folder, _NO_BOUND, _NO_BOUND)],
            segment_ns=segment_ns,
            most_bytes=_NO_BOUND,
            models=lambda: models or {},
            clock=lambda: self.now_ns,
            wall=time.time_ns if wall_ns is None else lambda: wall_ns + self.now_ns - begins_ns,
        )
        self._steps = 0

    def handle(self, events: Sequence[Event], now_ns: int) -> list[Command]:
        """Handle the events as the scheduler does, and record them."""
        commands = super().handle(events, now_ns)
        self.recorder.record(self.now_ns, events, commands)
        self._steps += 1
        if self._steps % (MAX_WAITING_STEPS // 2) == 0:
            self.recorder.mark().result()
        return commands

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.recorder.close()
