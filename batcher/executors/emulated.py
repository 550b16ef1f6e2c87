"""The executor `emulated`: takes the time that a GPU would take, for tests and benchmarks.

A batch takes `base + per_row * rows`, times a random factor if there is jitter, on an exclusive
device: instances with the same device execute one at a time, in the order in which they ask, like kernels
that fill a GPU. The outputs are `Y = 2 * X` and, in every row, the size of the batch (`BATCH`).

With a cost of copying, a batch is copied to the device first, and the device copies one batch at a time
while it computes another: then batches are pipelined (`submit` and `collect`).

The waits are `time.sleep`. Spinning would be more precise, but would hold the interpreter lock and
slow down the event loop of the server under test. The kernel wakes sleeping threads late, by up to
0.05 ms to save wake-ups; the thread turns that off (`PR_SET_TIMERSLACK`). A batch that costs 0 does
not sleep and takes about 10 microseconds.
"""

from __future__ import annotations

import ctypes
import random
import threading
import time
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

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
    copy_base: DurationOrZero = Field(0, alias="copy")
    """The time to copy a batch to the device, beside its computation of the batch before."""
    copy_per_row: DurationOrZero = 0
    """The time that each row adds to that."""
    jitter: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 0.0
    """The time is multiplied by a random factor, uniform from 1 - jitter to 1 + jitter."""
    columns: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 16
    """Values in a row of X and of Y."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """The seed of the random factors; every instance of a model has its own sequence."""

    def cost_ns(self, rows: int) -> int:
        """The time of a batch of `rows` rows without jitter, in nanoseconds."""
        return self.base + self.per_row * rows

    def copy_ns(self, rows: int) -> int:
        """The time to copy a batch of `rows` rows, in nanoseconds."""
        return self.copy_base + self.copy_per_row * rows


class _Queue:
    """What a device does one after the other: computations, or copies."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._free_ns = 0

    def add(self, cost_ns: int) -> int:
        """Queue what takes so long; returns when it ends (nanoseconds of `time.monotonic_ns`)."""
        with self._guard:
            self._free_ns = max(self._free_ns, time.monotonic_ns()) + cost_ns
            return self._free_ns


class _Devices:
    """The computations and the copies of each device of this process, by its name."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queues: dict[str, tuple[_Queue, _Queue]] = {}

    def __getitem__(self, name: str) -> tuple[_Queue, _Queue]:
        with self._guard:
            return self._queues.setdefault(name, (_Queue(), _Queue()))


_DEVICES: Final = _Devices()


class _Submitted(NamedTuple):
    """A batch on the device, and when its computation ends."""

    batch: Batch
    ends_ns: int


class EmulatedExecutor:
    """Input `X` FP32 [-1, columns]; outputs `Y` = 2 * X, FP32 [-1, columns], and `BATCH` INT32 [-1, 1]."""

    capabilities = Capabilities(dynamic_axes=True)
    options = EmulatedOptions
    submit: Callable[[Batch], _Submitted]
    collect: Callable[[_Submitted], BatchResult]

    def load(self, context: LoadContext) -> ModelMetadata:
        """Read the options. Raises `ModelLoadError`, which names every wrong one."""
        options = read_options(context, EmulatedOptions)
        self._options = options
        _set_exact_sleep()
        self._computations, self._copies = _DEVICES[context.device]
        self._random = random.Random(f"{options.seed}/{context.instance}")  # noqa: S311 - no secret
        if options.copy_ns(1):
            # Without them a batch takes one change of threads less.
            self.submit, self.collect = self._submit, self._collect
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
        return self._collect(self._submit(batch))

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _submit(self, batch: Batch) -> _Submitted:
        """Copy a batch to the device, and queue its computation there."""
        copy_ns, cost_ns = self._options.copy_ns(batch.rows), self._cost_ns(batch.rows)
        if copy_ns:
            _sleep_until(self._copies.add(copy_ns))
        return _Submitted(batch, self._computations.add(cost_ns) if cost_ns else 0)

    def _collect(self, submitted: _Submitted) -> BatchResult:
        """Return the outputs when the device has computed them."""
        outputs = _answer(submitted.batch)
        if submitted.ends_ns:
            _sleep_until(submitted.ends_ns)
        return BatchResult(outputs)

    def _cost_ns(self, rows: int) -> int:
        cost_ns = self._options.cost_ns(rows)
        jitter = self._options.jitter
        return round(cost_ns * self._random.uniform(1 - jitter, 1 + jitter)) if jitter else cost_ns


def _sleep_until(ends_ns: int) -> None:
    left_ns = ends_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / SECOND)


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
