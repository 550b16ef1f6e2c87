"""Runs one executor as the server does: on a thread of its own, loaded before it is called.

Used by `ExecutorContract`. Input arrays are read-only, because in the server they may be views of a
message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np

from batcher.executor import (
    DTYPES,
    Array,
    AsyncExecutor,
    Batch,
    BatchResult,
    Executor,
    LoadContext,
    MetadataValue,
    ModelMetadata,
    Watches,
)
from batcher.plugins import is_async
from batcher.protocol.elements import bytes_to_raw, to_raw
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.tensors import TensorSpec

T = TypeVar("T")

CANCELLED_S = 1.0
"""Seconds that a call may take to end once it is cancelled."""


class ContractDriver:
    """One executor on its own thread; the caller waits for each call, of an `AsyncExecutor` too."""

    def __init__(self, executor: Executor | AsyncExecutor, context: LoadContext) -> None:
        self.executor = executor
        self.context = context
        self.metadata: ModelMetadata | None = None
        self._async = is_async(type(executor))
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="executor-contract")

    def call(self, function: Callable[[], T | Coroutine[Any, Any, T]]) -> T:
        """The result of a call on the executor's thread."""

        def run() -> T:
            if self._async:
                return self._runner.run(cast("Coroutine[Any, Any, T]", function()))
            return cast("T", function())

        return self._thread.submit(run).result()

    def load(self) -> ModelMetadata:
        """Load the model; returns its metadata as the server would serve it."""
        loaded = self.call(lambda: self.executor.load(self.context))
        self.metadata = loaded
        self.metadata = with_row_axes(loaded, self.context, self.executor.capabilities)
        return self.metadata

    @property
    def with_rows(self) -> frozenset[str]:
        """The inputs that have a row axis."""
        assert self.metadata is not None
        return frozenset(spec.name for spec in self.metadata.inputs if spec.batched)

    def rows(self, inputs: Mapping[str, Array]) -> int:
        """The rows of these inputs; 1 if none of them has a row axis."""
        return next((len(array) for name, array in inputs.items() if name in self.with_rows), 1)

    def some_rows(self, inputs: Mapping[str, Array], which: slice) -> dict[str, Array]:
        """These rows of every input that has a row axis; the other inputs unchanged."""
        return {
            name: array[which].copy() if name in self.with_rows else array
            for name, array in inputs.items()
        }

    def execute(
        self, inputs: Mapping[str, Array], outputs: frozenset[str] | None = None
    ) -> BatchResult:
        """Run one batch of these inputs."""
        return self.run(self.batch(inputs, outputs))

    def run(self, batch: Batch) -> BatchResult:
        """Run one batch."""
        return self.call(lambda: self.executor.execute(batch))

    def answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Copies of all outputs for these inputs. The result is released."""
        result = self.execute(inputs)
        assert not result.row_errors, f"rows failed: {dict(result.row_errors)}"
        copies = {name: array.copy() for name, array in result.outputs.items()}
        result.release()
        return copies

    def answer_together(self, batches: list[dict[str, Array]]) -> list[BatchResult]:
        """Results of batches that an `AsyncExecutor` has in flight at once."""
        executor = cast("AsyncExecutor", self.executor)

        async def together() -> list[BatchResult]:
            calls = [executor.execute(self.batch(each)) for each in batches]
            return await asyncio.gather(*calls)

        return self.call(together)

    def batch(
        self,
        inputs: Mapping[str, Array],
        outputs: frozenset[str] | None = None,
        *,
        metadata: Mapping[str, MetadataValue] | None = None,
        deadline_ns: int | None = None,
    ) -> Batch:
        """A batch as the server makes it: of read-only arrays, or of their contents for a raw executor."""
        rows = self.rows(inputs)
        rest: Any = {"outputs": outputs, "metadata": metadata or {}, "deadline_ns": deadline_ns}
        if not self.executor.capabilities.raw:
            arrays = {name: _read_only(array) for name, array in inputs.items()}
            return Batch(arrays, rows, **rest)
        shapes = {name: array.shape for name, array in inputs.items()}
        raw = {name: _contents(array) for name, array in inputs.items()}
        return Batch({}, rows, **rest, raw=raw, shapes=shapes)

    @property
    def is_async(self) -> bool:
        """Whether it is an `AsyncExecutor`."""
        return self._async

    def cancelled(self, batch: Batch) -> bool:
        """Begin a batch, cancel it, and return whether it ended within `CANCELLED_S` seconds."""
        executor = cast("AsyncExecutor", self.executor)

        async def cancel() -> list[bool]:
            task = asyncio.ensure_future(executor.execute(batch))
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
            ended, _ = await asyncio.wait((task,), timeout=CANCELLED_S)
            if ended and not task.cancelled() and task.exception() is None:
                task.result().release()
            return [bool(ended)]

        return all(self.call(cancel))

    def watched(self, watches: Watches, batch: Batch) -> tuple[list[object], bool]:
        """Run `watch` beside a batch, then cancel it: what it reported, and whether it ended by that."""
        executor = cast("AsyncExecutor", self.executor)
        reports: list[object] = []

        async def watch() -> list[bool]:
            task = asyncio.ensure_future(watches.watch(reports.append))
            (await executor.execute(batch)).release()
            if task.done():
                return [False]
            task.cancel()
            ended, _ = await asyncio.wait((task,), timeout=CANCELLED_S)
            return [bool(ended)]

        return reports, all(self.call(watch))

    def stop(self) -> None:
        """Close the executor, if it loaded, and end the thread."""
        if self.metadata is not None:
            self.metadata = None
            self.call(self.executor.close)
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _contents(array: Array) -> list[memoryview]:
    """The contents of an array in two pieces."""
    data = b"".join(bytes_to_raw(array)[0]) if array.dtype.hasobject else bytes(to_raw(array))
    view = memoryview(data)
    return [view[: len(data) // 2], view[len(data) // 2 :]]


def check_array(array: Array, spec: TensorSpec, rows: int) -> None:
    """Assert that the array has the datatype, the shape and the rows that the spec says."""
    name, shape = spec.name, spec.shape
    assert isinstance(array, np.ndarray), f"{name} must be a numpy array"
    assert array.dtype == DTYPES[spec.datatype], f"{name}: {array.dtype} is not {spec.datatype}"
    assert array.ndim == len(shape), f"{name}: shape {array.shape} does not fit {shape}"
    if spec.batched:
        assert len(array) == rows, f"{name}: {len(array)} rows instead of {rows}"
    fits = all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    assert fits, f"{name}: shape {array.shape} does not fit {shape}"
    if spec.datatype == "BYTES":
        assert all(isinstance(value, bytes) for value in array.flat), f"{name}: not all are bytes"
