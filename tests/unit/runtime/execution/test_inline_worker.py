"""A blocking executor on the event loop."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from batcher.clock import monotonic_ns
from batcher.core.events import FailureCause
from batcher.errors import ModelLoadError
from batcher.executor import BatchResult, Capabilities, ExecutionError, LoadContext
from batcher.runtime.execution import inline_worker
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.inline_worker import InlineWorker
from batcher.runtime.execution.loop_worker import LoopWorker
from batcher.runtime.execution.worker import make_worker
from batcher.runtime.instances.warmup import run_batch
from batcher.runtime.interface.layout import Layout
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor
from batcher.testing import FakeExecutor

LAYOUT = Layout({"Y": "FP32"})
CONTEXT = LoadContext("m", "1", 0, "cpu", 8, {})


def slices(number):
    rows = np.full((1, 1), number, np.float32)
    return [Slice(InferenceRequest("m", {"X": Tensor("FP32", rows)}, 0), 0, 1)]


async def loaded(fake, **more):
    worker = make_worker(
        fake, "m#0", asyncio.get_running_loop(), monotonic_ns, isolation="inline", **more
    )
    await worker.load(CONTEXT)
    return worker


async def test_batches_run_on_the_event_loop_and_load_and_close_beside_it():
    fake = FakeExecutor(columns=1)
    worker = await loaded(fake)
    assert isinstance(worker, InlineWorker)
    executed = await run_batch(worker, slices(3), LAYOUT)
    assert executed.result.outputs["Y"].tolist() == [[6.0]]
    assert executed.started_ns <= executed.execute_start_ns <= executed.execute_end_ns
    assert executed.execute_end_ns <= executed.ended_ns
    executed.release()
    await worker.close(10)
    threads = {call.method: call.thread for call in fake.calls}
    assert threads["execute"] == threading.get_ident()
    assert threads["load"] == threads["close"] != threading.get_ident()
    assert not worker.hangs


async def test_others_come_in_between_two_batches():
    fake, order = FakeExecutor(columns=1), []
    worker = await loaded(fake)
    loop = asyncio.get_running_loop()
    for number in (1, 2):
        worker.run(slices(number), LAYOUT, lambda executed: order.append(executed.result))
        loop.call_soon(order.append, "another")
    assert order == []
    await asyncio.sleep(0)
    assert [each == "another" for each in order] == [False, True, False, True]
    await worker.close(10)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no"), FailureCause.UNKNOWN),
        (ExecutionError("no", cause="input"), FailureCause.INPUT),
        (SystemExit(3), FailureCause.UNKNOWN),
        (KeyboardInterrupt(), FailureCause.UNKNOWN),
        (StopIteration(), FailureCause.UNKNOWN),
        (asyncio.CancelledError(), FailureCause.UNKNOWN),
    ],
)
async def test_what_an_executor_raises_fails_its_batch_alone(error, cause):
    fake = FakeExecutor(columns=1)
    worker = await loaded(fake)
    fake.fail_next(error)
    failed = await run_batch(worker, slices(1), LAYOUT)
    assert (failed.result, failed.cause) == (None, cause)
    assert failed.ended_ns
    executed = await run_batch(worker, slices(2), LAYOUT)
    assert executed.result.outputs["Y"].tolist() == [[4.0]]
    executed.release()
    await worker.close(10)


async def test_a_batch_ends_even_if_the_worker_itself_raises(monkeypatch):
    def boom(*_):
        raise RuntimeError("boom")

    worker = await loaded(FakeExecutor(columns=1))
    monkeypatch.setattr(inline_worker, "execute", boom)
    executed = await run_batch(worker, slices(1), LAYOUT)
    assert (executed.result, executed.failure) == (None, "RuntimeError: boom")
    await worker.close(10)


async def test_what_has_not_begun_can_be_cancelled():
    fake, ended = FakeExecutor(columns=1), []
    worker = await loaded(fake)
    worker.run(slices(1), LAYOUT, ended.append)
    cancel = worker.run(slices(2), LAYOUT, ended.append)
    assert cancel()
    assert not cancel()
    await asyncio.sleep(0)
    assert not cancel()
    assert [executed.result is None for executed in ended] == [False, True]
    assert ended[1].cause is FailureCause.ABANDONED
    assert fake.batch_sizes == [1]
    await worker.close(10)


async def test_batches_that_wait_are_executed_before_it_closes():
    fake, ended = FakeExecutor(columns=1), []
    worker = await loaded(fake)
    for number in range(3):
        worker.run(slices(number), LAYOUT, ended.append)
    await worker.close(10)
    assert [executed.result is not None for executed in ended] == [True] * 3
    assert fake.calls[-1].method == "close"


async def test_an_abandoned_worker_executes_nothing_more():
    fake, ended = FakeExecutor(columns=1), []
    worker = await loaded(fake)
    worker.run(slices(1), LAYOUT, ended.append)
    worker.abandon()
    await asyncio.sleep(0)
    await worker.close(10)
    assert ended == []
    assert fake.batch_sizes == []


@pytest.mark.parametrize("error", [ModelLoadError("no file"), ValueError("no file"), SystemExit(1)])
async def test_a_load_that_fails_says_why(error):
    fake = FakeExecutor(load_error=error)
    with pytest.raises(ModelLoadError, match=r"no file|SystemExit"):
        await loaded(fake)
    assert [call.method for call in fake.calls] == ["load"]


@pytest.mark.parametrize(
    ("healthy", "why"),
    [
        (lambda: None, ""),
        (lambda: "sick", "sick"),
        (lambda: 7, "healthy() returned 7, not a text or None"),
        (lambda: 1 // 0, "ZeroDivisionError: "),
    ],
)
async def test_it_is_asked_for_its_health(healthy, why):
    fake = FakeExecutor()
    fake.healthy = healthy
    worker = await loaded(fake)
    assert worker.asks
    said = await worker.healthy(60)
    assert said.startswith(why)
    assert bool(said) == bool(why)
    assert await worker.healthy(-1) == "healthy() has not answered within -1 s"
    await worker.close(10)


async def test_rows_with_nan_fail_where_that_is_configured():
    fake = FakeExecutor(columns=1)
    worker = await loaded(fake, fail_nan=True)
    fake.nan_next()
    executed = await run_batch(worker, slices(1), LAYOUT)
    assert executed.result.row_errors == {0: "output 'Y' contains NaN"}
    executed.release()
    await worker.close(10)


async def test_inputs_are_gathered_into_memory_of_the_executor_and_fixed_sizes_filled():
    class Full(FakeExecutor):
        capabilities = Capabilities(dynamic_rows=False)

        def __init__(self):
            super().__init__(columns=1)
            self.memory = []

        def allocate(self, name, shape, dtype):
            self.memory.append(np.zeros(shape, dtype))
            return self.memory[-1]

        def execute(self, batch):
            assert np.shares_memory(batch.inputs["X"], self.memory[0])
            return BatchResult({"Y": batch.inputs["X"]})

    fake = Full()
    worker = await loaded(fake)
    first = await run_batch(worker, slices(1), LAYOUT)
    await run_batch(worker, slices(2), LAYOUT)
    assert first.result.outputs["Y"].tolist() == [[1.0]] * 8
    assert len(fake.memory) == 1
    await worker.close(10)


async def test_coroutines_run_on_the_event_loop_as_ever():
    class Remote:
        capabilities = Capabilities(max_in_flight=2)

        async def load(self, context):
            return FakeExecutor().metadata

        async def execute(self, batch):
            return BatchResult({"Y": batch.inputs["X"]})

        async def close(self):
            pass

    worker = await loaded(Remote())
    assert isinstance(worker, LoopWorker)
    assert not worker.queues
    await worker.close(10)
