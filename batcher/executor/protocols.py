"""The methods of an executor: those that it must have, and those that it may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from batcher.executor.batch import Batch, BatchResult
from batcher.executor.loading import Capabilities, LoadContext, ModelMetadata
from batcher.tensors import Array


@runtime_checkable
class Executor(Protocol):
    """A blocking runtime: one object per instance, every call on that object's own thread."""

    capabilities: Capabilities

    def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model and return its inputs and outputs. May take minutes.

        Raise `ModelLoadError` with the reason if it cannot be loaded, or its subclass
        `OutOfMemory` if the device has no room for it beside what is loaded there, or
        `BackendUnavailable` if something that the model needs is not up yet: then the load is
        repeated with increasing pauses. After an exception, `close` is not called.
        """
        ...

    def execute(self, batch: Batch) -> BatchResult:
        """Execute one batch and return when its outputs are complete.

        Raise `ExecutionError` (any exception will do) if the whole batch failed; return
        `row_errors` if single rows did. After a failure, parts of the batch may be executed again.
        """
        ...

    def close(self) -> None:
        """Free everything. Called once after a successful `load`, on the same thread.

        It is never called during `execute`, and so not at all if a call of `execute` never returns.
        """
        ...


@runtime_checkable
class AsyncExecutor(Protocol):
    """The same contract with coroutines, which run on the server's event loop and must not block it.

    Up to `max_in_flight` calls of `execute` run at the same time. A call is cancelled when it takes
    longer than `models[].execute_timeout`.
    """

    capabilities: Capabilities

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model and return its inputs and outputs; see `Executor.load`."""
        ...

    async def execute(self, batch: Batch) -> BatchResult:
        """Execute one batch; see `Executor.execute`."""
        ...

    async def close(self) -> None:
        """Free everything. Called once after a successful `load`, when no `execute` runs."""
        ...


@runtime_checkable
class ReportsHealth(Protocol):
    """An executor with the optional method `healthy`, for runtimes that know when they are broken.

    It is called every `models[].health.interval` while no batch runs, where `execute` is called: on
    the object's thread, or as a coroutine on the event loop. Return quickly, because a batch that
    arrives meanwhile waits. A call that takes longer than `models[].health.timeout` counts as
    unhealthy.
    """

    def healthy(self) -> str | None:
        """Return None if healthy, else the reason, for people. An exception counts as a reason."""
        ...


@runtime_checkable
class Watches(Protocol):
    """An `AsyncExecutor` with the optional method `watch`, for backends that change by themselves.

    It is called once after a successful `load` and runs until the instance goes down, when it is
    cancelled. It calls `report("why")` when the backend cannot serve, and `report("")` when it can
    again: readiness follows at once, while the instance executes what it gets. When it returns, the
    backend has another model now: the model is loaded again, beside this object, which serves until
    then. What it raises counts as a report, and it is called again after a pause.
    """

    async def watch(self, report: Callable[[str], None]) -> None:
        """Report changes of the backend's health; return when the model must be loaded again."""
        ...


@runtime_checkable
class Allocates(Protocol):
    """A blocking executor with the optional method `allocate`, which gives the memory of its inputs.

    Batches are gathered into what it returns: memory that is pinned, registered with a device or
    shared, so that the executor needs no copy of its own.
    """

    def allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array of that shape and dtype: C-contiguous, writable, in memory of its own.

        It is called after `load`, on the object's thread, for an input `name` with rows, when the
        first batch of such rows is gathered: `shape` has the most rows that a batch can have, and
        then the axes of a row (of a bucket, where they are padded). `batch.inputs[name]` is then
        the first rows of such an array. Its memory is used for one batch after another, and never
        for two at once: not before `execute` has returned, or `collect`. There may be several
        arrays for one input and shape, and inputs of BYTES have none. batcher drops its references
        to arrays that have not been used for long, and to all before `close`.
        """
        ...


@runtime_checkable
class Pipelines(Protocol):
    """A blocking executor that splits `execute`, so that one batch is copied in while another computes.

    Where it has both methods, batches are executed by them, and no longer by `execute`, which must
    exist all the same: `return self.collect(self.submit(batch))`. At most two batches are submitted
    and not yet collected.
    """

    def submit(self, batch: Batch) -> Any:
        """Copy the inputs in and start the computation; return what `collect` needs, without waiting.

        It is called on the object's thread. What it raises ends the batch as with `execute`, and
        `collect` is not called for it.
        """
        ...

    def collect(self, handle: Any) -> BatchResult:
        """Wait for a submitted batch and return its outputs; raise as `execute` does.

        It is called once for what each `submit` returned, in the same order, on a second thread of
        the object, while `submit` may run for the next batch. The inputs stay as they are until it
        has returned.
        """
        ...
