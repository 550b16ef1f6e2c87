"""The executor `emulated`: takes the time that a GPU would take, for tests and benchmarks.

A batch takes `base + per_row * rows`, times a random factor if there is jitter, on an exclusive
device: instances with the same device execute one at a time, like kernels that fill a GPU. The
outputs are `Y = 2 * X` and, in every row, the size of the batch (`BATCH`).

The wait is one `time.sleep`. Spinning would be more precise, but would hold the interpreter lock and
slow down the event loop of the server under test. The kernel wakes sleeping threads late, by up to
0.05 ms to save wake-ups; the thread turns that off (`PR_SET_TIMERSLACK`). A batch that costs 0 does
not sleep and takes about 10 microseconds.
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
    """How long a batch takes, and how wide a row is."""

    base: DurationOrZero = 0
    """The time of every batch, whatever its size."""
    per_row: DurationOrZero = 0
    """The time that each row adds."""
    jitter: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 0.0
    """The time is multiplied by a random factor, uniform from 1 - jitter to 1 + jitter."""
    columns: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 16
    """Values in a row of X and of Y."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """The seed of the random factors; every instance of a model has its own sequence."""

    def cost_ns(self, rows: int) -> int:
        """The time of a batch of `rows` rows without jitter, in nanoseconds."""
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
    """Input `X` FP32 [-1, columns]; outputs `Y` = 2 * X, FP32 [-1, columns], and `BATCH` INT32 [-1, 1]."""

    capabilities = Capabilities()
    options = EmulatedOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Read the options. Raises `ModelLoadError`, which names every wrong one."""
        options = read_options(context, EmulatedOptions)
        self._options = options
        _set_exact_sleep()
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
        """Return the outputs after the time of the batch has passed on the device."""
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
        """Do nothing: there is nothing to free."""

    def _cost_ns(self, rows: int) -> int:
        cost_ns = self._options.cost_ns(rows)
        jitter = self._options.jitter
        return round(cost_ns * self._random.uniform(1 - jitter, 1 + jitter)) if jitter else cost_ns


def _set_exact_sleep() -> None:
    """Make sleeps of this thread end on time (Linux)."""
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
