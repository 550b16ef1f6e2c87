"""The executor `emulated`: takes the place of a GPU that is not there.

A batch costs `base + per_row * rows`, times a random factor when there is jitter, on one exclusive
device: instances that name the same device take turns, as kernels that fill a GPU do. The answer is
`Y = 2 * X` and, for every row, the size of the batch that it ran in.

The wait is one `time.sleep`, with no spinning: spinning would hold the interpreter lock and starve
the event loop of the server under test. The kernel wakes a sleeping thread late, so a batch takes a
little longer than its cost; a device does not have the 0.05 ms that the kernel adds to save
wake-ups, so the thread asks for none (`PR_SET_TIMERSLACK`). Cost 0 does not sleep at all: such a
batch takes about 10 microseconds.
"""

from __future__ import annotations

import ctypes
import random
import threading
import time
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from batcher.clock import SECOND
from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    Capabilities,
    DurationOrZero,
    LoadContext,
    ModelMetadata,
    Options,
    TensorSpec,
    read_options,
)

__all__ = ["EmulatedExecutor", "EmulatedOptions"]

_PR_SET_TIMERSLACK: Final = 29
_SHORTEST_SLACK_NS: Final = 1


class EmulatedOptions(Options):
    """What one batch costs, and how wide a row is."""

    base: DurationOrZero = 0
    """What every batch costs, whatever its size."""
    per_row: DurationOrZero = 0
    """What each row adds."""
    jitter: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 0.0
    """The cost is multiplied by a random factor, uniform from 1 - jitter to 1 + jitter."""
    columns: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 16
    """Values in a row of X and of Y."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """Where the random factors start; instance n of a model has its own sequence."""

    def cost_ns(self, rows: int) -> int:
        """What a batch of `rows` rows costs without jitter, in nanoseconds."""
        return self.base + self.per_row * rows


class _Devices:
    """One lock for each device name of this process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def __getitem__(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())


_DEVICES: Final = _Devices()


class EmulatedExecutor:
    """`X` FP32 [-1, columns] -> `Y` = 2 * X, FP32 alike, and `BATCH` INT32 [-1, 1]."""

    capabilities = Capabilities()
    options = EmulatedOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Read the options. Raises `ModelLoadError` naming what is wrong with them."""
        options = read_options(context, EmulatedOptions)
        self._options = options
        _sleep_exactly()
        self._exclusive = _DEVICES[context.device]
        self._random = random.Random(f"{options.seed}/{context.instance}")  # noqa: S311 - no secret
        return ModelMetadata(
            platform="emulated",
            inputs=(TensorSpec("X", "FP32", (-1, options.columns)),),
            outputs=(
                TensorSpec("Y", "FP32", (-1, options.columns)),
                TensorSpec("BATCH", "INT32", (-1, 1)),
            ),
            properties={"device": context.device},
        )

    def execute(self, batch: Batch) -> BatchResult:
        """Answer after the batch's cost has passed on the device."""
        cost_ns = self._cost_ns(batch.rows)
        if not cost_ns:
            return BatchResult(_answer(batch))
        with self._exclusive:
            ends_ns = time.monotonic_ns() + cost_ns
            outputs = _answer(batch)
            left_ns = ends_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns / SECOND)
        return BatchResult(outputs)

    def close(self) -> None:
        """Nothing is held."""

    def _cost_ns(self, rows: int) -> int:
        cost_ns = self._options.cost_ns(rows)
        jitter = self._options.jitter
        return round(cost_ns * self._random.uniform(1 - jitter, 1 + jitter)) if jitter else cost_ns


def _sleep_exactly() -> None:
    """Have this thread's sleeps end on time, where the kernel knows how (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_TIMERSLACK, _SHORTEST_SLACK_NS, 0, 0, 0)


def _answer(batch: Batch) -> dict[str, Array]:
    wanted = batch.outputs
    outputs: dict[str, Array] = {}
    if wanted is None or "Y" in wanted:
        outputs["Y"] = np.multiply(batch.inputs["X"], np.float32(2))
    if wanted is None or "BATCH" in wanted:
        outputs["BATCH"] = np.full((batch.rows, 1), batch.rows, np.int32)
    return outputs
