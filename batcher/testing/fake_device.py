"""A fake executor with everything that one for a device may have."""

from __future__ import annotations

from typing import Any

import numpy as np

from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    ExecutionError,
    ModelMetadata,
    TensorSpec,
)
from batcher.testing.fakes import FakeExecutor


class FakeDevice(FakeExecutor):
    """As `FakeExecutor`, in two halves, with memory of its own, batch sizes and the parameter `add`.

    `submit` copies `X` in, `collect` computes `Y` = 2 * X + add. With more rows than `most_rows`, it has
    no memory for a batch.
    """

    def __init__(self, *, columns: int = 2, batch_sizes: tuple[int, ...] = (1, 2, 4)) -> None:
        super().__init__(
            metadata=ModelMetadata(
                "fake-device",
                (TensorSpec("X", "FP32", (-1, columns)),),
                (TensorSpec("Y", "FP32", (-1, columns)),),
                parameters=("add",),
                batch_sizes=batch_sizes,
            )
        )
        self.most_rows: int | None = None
        """The most rows that it has memory for; None for any number."""
        self.allocated: list[Array] = []
        """What `allocate` has returned, oldest first."""
        self.outstanding = 0
        """Batches that are submitted and not collected."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory that `allocated` keeps."""
        del name
        self.allocated.append(np.empty(shape, dtype))
        return self.allocated[-1]

    def submit(self, batch: Batch) -> tuple[Batch, Array]:
        """Copy the rows in."""
        self._note("submit", batch)
        if self.most_rows is not None and batch.rows > self.most_rows:
            raise ExecutionError(f"no memory for {batch.rows} rows", cause="memory")
        add = batch.parameters.get("add", 0)
        if not isinstance(add, int | float):
            raise ExecutionError(f"add must be a number, not {add!r}", cause="input")
        self.outstanding += 1
        return batch, 2 * batch.inputs["X"] + np.float32(add)

    def collect(self, handle: tuple[Batch, Array]) -> BatchResult:
        """What the script says next, or the answer."""
        self._note("collect")
        self.outstanding -= 1
        batch, rows = handle
        if self._script:
            return self._script.popleft()(batch)
        return BatchResult({"Y": rows})

    def execute(self, batch: Batch) -> BatchResult:
        """Both halves."""
        self._note("execute")
        return self.collect(self.submit(batch))
