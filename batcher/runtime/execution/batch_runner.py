"""`BatchRunner`: what the runner needs of an instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice


class BatchRunner(Protocol):
    """What the runner needs of an instance."""

    @property
    def incarnation(self) -> int:
        """Grows each time that it is loaded."""
        ...

    def run(
        self, batch_id: int, slices: Sequence[Slice], done: Callable[[ExecutedBatch], None]
    ) -> None:
        """Start a batch. `done` is called once, on the event loop, unless the instance goes down."""
        ...

    def cancel(self, batch_id: int) -> None:
        """Cancel a batch that no request waits for, if that is possible; `done` is called later."""
        ...
