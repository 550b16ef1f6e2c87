"""Batches of one instance overlap, and each request gets its own rows all the same."""

from __future__ import annotations

import asyncio
import random

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher import plugins
from batcher.executor import BatchResult, ExecutionError
from batcher.testing import FakeExecutor
from batcher.testing.fakes import Hang
from batcher.testing.messages import output_arrays

WAIT_S = 30
LABELS = {"model": "hello", "version": "1"}
BAD = -1.0
"""A value that no batch may contain."""


class Halves(FakeExecutor):
    """Y = 2 * X in two halves, which fail where a test says so."""

    fails_in = "collect"

    def __init__(self):
        super().__init__(columns=4)
        self.hangs = {}
        self.submitted, self.overlapped = 0, 0

    def submit(self, batch):
        self._play("submit", batch)
        self.submitted += 1
        self.overlapped += self.submitted == 2
        return batch

    def collect(self, handle):
        try:
            self._play("collect", handle)
            return BatchResult({"Y": handle.inputs["X"] * 2})
        finally:
            self.submitted -= 1

    def hang_in(self, half):
        hang = self.hangs[half] = Hang()
        return hang

    def _play(self, half, batch):
        hang = self.hangs.pop(half, None)
        if hang is not None:
            hang.block()
        if half == self.fails_in and (batch.inputs["X"] == BAD).any():
            raise ExecutionError("a bad row", cause="input")


@pytest.fixture
def made(monkeypatch):
    """The executors that the name `halves` has made."""
    made = []

    def make():
        made.append(Halves())
        return made[-1]

    real = plugins.find_executor
    monkeypatch.setattr(
        plugins, "find_executor", lambda name: make if name == "halves" else real(name)
    )
    return made


@pytest.fixture
async def served(start, hello, dial):
    """A function from settings of the model to (application, stub)."""

    async def make(**model):
        application = await start(hello(**({"executor": "halves", "options": {}} | model)))
        return application, await dial(application.grpc.addresses[0])

    return make


async def ask(stub, request_of, number, rows):
    """One request's rows, which are its own number, or its error."""
    try:
        answer = await stub.ModelInfer(request_of(float(number), rows=rows), timeout=WAIT_S)
    except aio.AioRpcError as error:
        return error
    return output_arrays(answer)["Y"]


@pytest.mark.parametrize("pipelining", [True, False])
async def test_every_request_gets_its_own_rows(served, request_of, pipelining):
    draw = random.Random(1)
    options = {"columns": 4, "copy": "0.3ms", "base": "0.3ms", "per_row": "0.02ms", "jitter": 0.5}
    application, stub = await served(
        executor="emulated",
        options=options,
        pipelining=pipelining,
        warmup={"batch_sizes": [1, 16]},
        batching={"max_batch_size": 16},
        queue={"max_requests": 1000},
    )
    sizes = [draw.choice((1, 1, 2, 3, 5, 8, 16, 20)) for _ in range(300)]
    found = await asyncio.gather(
        *(ask(stub, request_of, number, rows) for number, rows in enumerate(sizes))
    )
    for number, (rows, answer) in enumerate(zip(sizes, found, strict=True)):
        np.testing.assert_array_equal(answer, np.full((rows, 4), 2.0 * number, np.float32))
    assert application.registry.get_sample_value("batcher_batches_in_flight", LABELS) == 0


@pytest.mark.parametrize("half", ["submit", "collect"])
async def test_a_bad_row_costs_only_its_own_request(served, made, request_of, half, monkeypatch):
    monkeypatch.setattr(Halves, "fails_in", half)
    application, stub = await served(
        warmup={"batch_sizes": [1]}, batching={"max_batch_size": 8}, queue={"max_requests": 1000}
    )
    draw = random.Random(2)
    numbers = [BAD if draw.random() < 0.05 else float(n) for n in range(200)]
    found = await asyncio.gather(*(ask(stub, request_of, each, 1) for each in numbers))
    for number, answer in zip(numbers, found, strict=True):
        if number == BAD:
            assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            np.testing.assert_array_equal(answer, np.full((1, 4), 2 * number, np.float32))
    assert len(made) == 1
    assert application.registry.get_sample_value("batcher_batches_in_flight", LABELS) == 0


async def test_the_next_batch_is_submitted_before_the_one_before_has_ended(
    served, made, request_of, eventually
):
    _, stub = await served(warmup={"batch_sizes": [1, 4]}, batching={"max_batch_size": 4})
    executor = made[0]
    # What is known of the times before is the scheduler's reason to hand batches over early.
    for _ in range(3):
        await asyncio.gather(*(ask(stub, request_of, n, 1) for n in range(40)))
    hang = executor.hang_in("collect")
    executor.overlapped = 0
    calls = [asyncio.ensure_future(ask(stub, request_of, n, 1)) for n in range(40)]
    await asyncio.to_thread(hang.wait_entered)
    await eventually(lambda: executor.overlapped)
    hang.release()
    for number, answer in enumerate(await asyncio.gather(*calls)):
        np.testing.assert_array_equal(answer, np.full((1, 4), 2.0 * number, np.float32))


@pytest.mark.slow
async def test_waiting_behind_a_batch_that_computes_is_not_hanging(
    served, made, request_of, eventually
):
    """`execute_timeout` counts from when a batch could begin on the device."""
    _, stub = await served(
        execute_timeout="2s", warmup={"batch_sizes": [1]}, batching={"max_batch_size": 1}
    )
    executor = made[0]
    for n in range(10):
        await ask(stub, request_of, n, 1)
    first, second = Hang(), Hang()
    executor.hangs["collect"] = first
    calls = [asyncio.ensure_future(ask(stub, request_of, n, 1)) for n in range(4)]
    await asyncio.to_thread(first.wait_entered)
    await eventually(lambda: executor.submitted == 2)
    executor.hangs["collect"] = second
    # Each takes less than the timeout, and the second was submitted longer ago than that when it ends.
    loop = asyncio.get_running_loop()
    loop.call_later(1.2, first.release)
    loop.call_later(2.4, second.release)
    for number, answer in enumerate(await asyncio.gather(*calls)):
        np.testing.assert_array_equal(answer, np.full((1, 4), 2.0 * number, np.float32))
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("half", ["submit", "collect"])
async def test_a_half_that_hangs_costs_one_instance(served, made, request_of, eventually, half):
    application, stub = await served(
        execute_timeout="500ms",
        warmup={"batch_sizes": [1, 4]},
        batching={"max_batch_size": 4},
        queue={"max_requests": 1000},
    )
    hung = made[0]
    hang = hung.hang_in(half)
    found = await asyncio.gather(*(ask(stub, request_of, n, 1) for n in range(40)))
    lost = [each for each in found if isinstance(each, aio.AioRpcError)]
    # The batch that hangs, and the one that was given to the instance behind it.
    assert 1 <= len(lost) <= 8
    assert all("the instance that ran the request went down" in e.details() for e in lost)
    for number, answer in enumerate(found):
        if not isinstance(answer, aio.AioRpcError):
            np.testing.assert_array_equal(answer, np.full((1, 4), 2.0 * number, np.float32))
    assert len(made) == 2
    assert "close" not in [call.method for call in hung.calls]
    hang.release()
    await eventually(lambda: hung.calls[-1].method == "close")
    assert application.registry.get_sample_value("batcher_batches_in_flight", LABELS) == 0
