"""Runs one executor as the server does: on a thread of its own, loaded before it is called.

Used by `ExecutorContract`. Input arrays are read-only, because in the server they may be views of a
message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from batcher.executor import (
    DTYPES,
    Allocates,
    Array,
    AsyncExecutor,
    Batch,
    BatchResult,
    Executor,
    LoadContext,
    MetadataValue,
    ModelMetadata,
    ParameterValue,
    Pipelines,
    Watches,
)
from batcher.plugins import is_async
from batcher.protocol.elements import bytes_to_raw, to_raw
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.tensors import TensorSpec

T = TypeVar("T")

MOST_SUBMITTED = 2
"""Batches that are submitted and not collected, as in the server."""

CANCELLED_S = 1.0
"""Seconds that a call may take to end once it is cancelled."""


class _Raised:
    """What stands for the handle of a batch whose `submit` raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


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

    def call_plain(self, function: Callable[[], T]) -> T:
        """The result of a blocking call on the executor's thread, of an `AsyncExecutor` too."""
        return self._thread.submit(function).result()

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
        parameters: Mapping[str, ParameterValue] | None = None,
    ) -> Batch:
        """A batch as the server makes it: of read-only arrays, or of their contents for a raw executor."""
        rows = self.rows(inputs)
        rest: Any = {
            "parameters": parameters or {},
            "outputs": outputs,
            "deadline_ns": deadline_ns,
            "metadata": metadata or {},
        }
        if not self.executor.capabilities.raw:
            arrays = {name: _read_only(array) for name, array in inputs.items()}
            return Batch(arrays, rows, **rest)
        shapes = {name: array.shape for name, array in inputs.items()}
        raw = {name: _contents(array) for name, array in inputs.items()}
        return Batch({}, rows, **rest, raw=raw, shapes=shapes)

    def allocated(self, executor: Allocates, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Memory of the executor for such inputs: those with rows that are no BYTES."""
        return {
            name: self.call(partial(executor.allocate, name, array.shape, array.dtype))
            for name, array in inputs.items()
            if name in self.with_rows and not array.dtype.hasobject
        }

    def batch_in(self, memory: Mapping[str, Array], inputs: Mapping[str, Array]) -> Batch:
        """A batch whose inputs are in the first rows of allocated memory, as far as there is such."""
        placed = dict(inputs)
        for name, array in memory.items():
            placed[name] = array[: len(inputs[name])]
            placed[name][...] = inputs[name]
        return Batch(placed, self.rows(inputs))

    @staticmethod
    def own(result: BatchResult, memory: Mapping[str, Array]) -> BatchResult:
        """The result as the server keeps it when the memory of its inputs is used again."""
        outputs = {
            name: array.copy()
            if array.dtype.hasobject or any(np.may_share_memory(array, m) for m in memory.values())
            else array
            for name, array in result.outputs.items()
        }
        return BatchResult(outputs, result.row_errors, result.release)

    def pipelined(
        self,
        executor: Pipelines,
        batches: Sequence[Batch | Callable[[], Batch]],
        collected: Callable[[int, BatchResult | BaseException], None] = lambda _place, _result: (
            None
        ),
    ) -> list[BatchResult | BaseException]:
        """How batches end that are submitted on the thread and collected on another, two at a time.

        A batch may be made when it is its turn. `collected` is called when one is.
        """
        results: list[BatchResult | BaseException] = []
        waiting: list[tuple[int, object]] = []
        collector = ThreadPoolExecutor(1, thread_name_prefix="executor-contract-collector")

        def collect() -> None:
            place, handle = waiting.pop(0)
            outcome: BatchResult | BaseException
            if isinstance(handle, _Raised):
                outcome = handle.error
            else:
                collected_by = collector.submit(executor.collect, handle)
                outcome = collected_by.exception() or collected_by.result()
            results.append(outcome)
            collected(place, outcome)

        def submit(batch: Batch) -> object:
            try:
                return executor.submit(batch)
            except Exception as error:  # noqa: BLE001 - it is how the batch ends
                return _Raised(error)

        with collector:
            for place, each in enumerate(batches):
                if len(waiting) == MOST_SUBMITTED:
                    collect()
                batch = each() if callable(each) else each
                waiting.append((place, self.call_plain(partial(submit, batch))))
            while waiting:
                collect()
        return results

    def filled(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """The first `rows` rows, and copies of the last of them in place of the others."""
        return {
            name: np.concatenate(
                [array[:rows], np.repeat(array[rows - 1 : rows], len(array) - rows, axis=0)]
            )
            if name in self.with_rows
            else array
            for name, array in inputs.items()
        }

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
