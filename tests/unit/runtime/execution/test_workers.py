"""Batches that run together or alone, and calls that raise where they must not."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from batcher.clock import monotonic_ns
from batcher.core.events import FailureCause
from batcher.executor import BatchResult, Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.execution import loop_worker, nan, thread_worker
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.loop_worker import LoopWorker
from batcher.runtime.execution.worker import make_worker
from batcher.runtime.instances.warmup import run_batch
from batcher.runtime.interface.layout import Layout
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor
from batcher.testing import FakeExecutor

METADATA = ModelMetadata(
    "fake", (TensorSpec("X", "FP32", (-1, 1)),), (TensorSpec("Y", "FP32", (-1, 1)),)
)
LAYOUT = Layout({"Y": "FP32"})


class Remote:
    """Records which requests share a batch; a batch ends a few iterations of the loop after it began."""

    capabilities = Capabilities(max_in_flight=8)

    def __init__(self):
        self.running = set()
        self.together = []

    async def execute(self, batch):
        number = float(batch.inputs["X"][0, 0])
        self.running.add(number)
        self.together.append(frozenset(self.running))
        for _ in range(3):
            await asyncio.sleep(0)
        self.running.discard(number)
        return BatchResult({"Y": batch.inputs["X"]})

    async def close(self):
        pass


def slices(number):
    rows = np.full((1, 1), number, np.float32)
    return [Slice(InferenceRequest("m", {"X": Tensor("FP32", rows)}, 0), 0, 1)]


async def test_a_batch_that_runs_alone_overlaps_with_no_other():
    executor = Remote()
    worker = LoopWorker(executor, "m#0", asyncio.get_running_loop(), monotonic_ns)
    ended = []
    # Some have begun, some have not, and others come while it runs.
    for number in range(3):
        worker.run(slices(number), LAYOUT, ended.append)
    await asyncio.sleep(0)
    worker.run(slices(100), LAYOUT, ended.append, alone=True)
    for number in range(3, 6):
        worker.run(slices(number), LAYOUT, ended.append)
    async with asyncio.timeout(10):
        while len(ended) < 7:
            await asyncio.sleep(0)
            if len(ended) == 3:
                worker.run(slices(7 + len(executor.together)), LAYOUT, lambda _: None)
    assert all(executed.result is not None for executed in ended)
    assert frozenset({0, 1, 2}) in executor.together
    assert frozenset({100}) in executor.together
    assert not any(100 in running and len(running) > 1 for running in executor.together)
    await worker.close(10)


class Blocking:
    """The same, blocking, with a result that counts its releases."""

    capabilities = Capabilities()

    def __init__(self):
        self.released = 0

    def load(self, context):
        return METADATA

    def execute(self, batch):
        return BatchResult({"Y": batch.inputs["X"]}, release=self._release)

    def close(self):
        pass

    def _release(self):
        self.released += 1


class Coroutines(Blocking):
    async def load(self, context):
        return METADATA

    async def execute(self, batch):
        return super().execute(batch)

    async def close(self):
        pass


async def run_one(executor, fail_nan):
    worker = make_worker(
        executor, "m#0", asyncio.get_running_loop(), monotonic_ns, fail_nan=fail_nan
    )
    await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    executed = await run_batch(worker, slices(1), LAYOUT)
    await worker.close(10)
    return executed


@pytest.mark.parametrize("kind", [Blocking, Coroutines])
async def test_a_result_whose_nan_check_raises_has_failed(kind, monkeypatch):
    monkeypatch.setattr(nan, "fail_nan_rows", boom)
    executor = kind()
    executed = await run_one(executor, fail_nan=True)
    assert executed.result is None
    assert executed.failure == "RuntimeError: boom"
    assert executor.released == 1


@pytest.mark.parametrize("kind", [Blocking, Coroutines])
async def test_a_batch_ends_even_if_the_worker_itself_raises(kind, monkeypatch):
    """`execute` never raises; if it did, no request may wait for ever."""
    monkeypatch.setattr(thread_worker, "execute", boom)
    monkeypatch.setattr(loop_worker, "execute_async", boom)
    executed = await run_one(kind(), fail_nan=False)
    assert executed.result is None
    assert executed.failure == "RuntimeError: boom"


def boom(*_, **__):
    raise RuntimeError("boom")


class Held(Remote):
    """Batches end when the test says so, or when they are cancelled."""

    def __init__(self):
        self.calls = []
        self.cancelled = []
        self.end = asyncio.Event()

    async def execute(self, batch):
        number = float(batch.inputs["X"][0, 0])
        self.calls.append(number)
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return BatchResult({"Y": batch.inputs["X"]})


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_cancelled_coroutine_ends_at_once_and_is_reported_once():
    executor, ended = Held(), []
    worker = LoopWorker(executor, "m#0", asyncio.get_running_loop(), monotonic_ns)
    cancels = [worker.run(slices(number), LAYOUT, ended.append) for number in (1, 2)]
    await turns()
    unstarted = worker.run(slices(3), LAYOUT, ended.append)
    assert cancels[0]()
    assert unstarted()
    await turns()
    assert executor.calls == [1, 2]
    assert executor.cancelled == [1]
    assert [executed.result for executed in ended] == [None, None]
    executor.end.set()
    await turns()
    assert ended[2].result is not None
    assert not cancels[1]()
    assert len(ended) == 3
    await worker.close(10)


async def test_a_batch_that_waits_for_one_that_runs_alone_can_be_cancelled():
    executor, ended = Held(), []
    worker = LoopWorker(executor, "m#0", asyncio.get_running_loop(), monotonic_ns)
    worker.run(slices(1), LAYOUT, ended.append, alone=True)
    cancel = worker.run(slices(2), LAYOUT, ended.append)
    await turns()
    assert cancel()
    await turns()
    assert executor.calls == [1]
    assert len(ended) == 1
    executor.end.set()
    await turns()
    assert len(ended) == 2
    await worker.close(10)


async def test_of_a_thread_only_what_waits_is_cancelled():
    fake = FakeExecutor(columns=1)
    worker = make_worker(fake, "m#0", asyncio.get_running_loop(), monotonic_ns)
    await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    hang, ended = fake.hang_next(), []
    running = worker.run(slices(1), LAYOUT, ended.append)
    hang.wait_entered()
    waiting = worker.run(slices(2), LAYOUT, ended.append)
    assert not running()
    assert waiting()
    assert not waiting()
    await turns()
    assert [executed.cause for executed in ended] == [FailureCause.ABANDONED]
    third = asyncio.get_running_loop().create_future()
    worker.run(slices(3), LAYOUT, third.set_result)
    hang.release()
    executed = await third
    assert executed.result.outputs["Y"].tolist() == [[6.0]]
    assert len(ended) == 2
    assert fake.batch_sizes == [1, 1]
    await worker.close(10)
    for each in (*ended, executed):
        each.release()


async def test_a_cancelled_batch_of_an_abandoned_worker_is_not_reported():
    fake = FakeExecutor(columns=1)
    worker = make_worker(fake, "m#0", asyncio.get_running_loop(), monotonic_ns)
    await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    hang, ended = fake.hang_next(), []
    worker.run(slices(1), LAYOUT, ended.append)
    hang.wait_entered()
    waiting = worker.run(slices(2), LAYOUT, ended.append)
    assert waiting()
    worker.abandon()
    hang.release()
    await turns()
    assert ended == []
