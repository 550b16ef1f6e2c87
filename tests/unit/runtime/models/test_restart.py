"""An instance that stays unhealthy is replaced, where a new process can help."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND, monotonic_ns
from batcher.errors import BatcherError
from batcher.executor import BatchResult
from batcher.executor.classes import ExecutorPath
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.replacement import RestartPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.request import InferenceRequest
from batcher.telemetry.reasons import LossReason
from batcher.tensors import Tensor
from batcher.testing.fakes import FakeExecutor

CHILDREN = Path(__file__).parents[3] / "children"
OFTEN = HealthCheckPlan(20 * MILLISECOND, 30 * SECOND, 2, restart_after=3)


async def until(condition):
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


def lost(middle):
    return {reason: count for reason, count in middle.model.telemetry.losses.items() if count}


async def ask(middle, value):
    """The first value of the answer, or why there is none."""
    rows = np.full((1, 2), value, np.float32)
    request = InferenceRequest("m", {"X": Tensor("FP32", rows)}, middle.clock())
    try:
        answer = await middle.batcher.infer(request)
    except BatcherError as error:
        return str(error)
    return float(answer.outputs["Y"].array[0, 0])


@pytest.mark.parametrize(
    ("executor", "sizes"), [("Breaks", (1,)), ("Breaks", ()), ("BreaksAndSaysSo", (1,))]
)
async def test_a_child_that_stays_broken_is_replaced(make_middle, monkeypatch, executor, sizes):
    monkeypatch.syspath_prepend(str(CHILDREN))
    middle = make_middle(
        clock=monotonic_ns, isolation="process", checks=OFTEN, warmup=WarmupPlan(sizes, 16)
    )
    middle.make_executor = lambda: ExecutorPath(f"odd_executors:{executor}")
    await middle.model.load()
    assert await ask(middle, 2) == 4.0
    assert "device-side assert" in await ask(middle, -1)

    async def sends_on():
        while not lost(middle):
            await ask(middle, 2)
            await asyncio.sleep(0.005)

    async with asyncio.timeout(60):
        await sends_on()
    assert lost(middle) == {LossReason.UNHEALTHY: 1}
    await until(lambda: middle.model.ready)
    assert await ask(middle, 2) == 4.0
    assert middle.problems == []


class Serves:
    """Its batches end when they are told to, one way or the other."""

    capabilities = FakeExecutor.capabilities

    def __init__(self):
        self.why = None
        self.told = asyncio.Semaphore(0)
        self.begun, self.ends = asyncio.Event(), asyncio.Event()

    async def load(self, context):
        return FakeExecutor().load(context)

    async def execute(self, batch):
        self.begun.set()
        await self.ends.wait()
        return BatchResult({"Y": batch.inputs["X"]})

    async def healthy(self):
        if self.why is not None:
            await self.told.acquire()
        return self.why

    def says(self, why, times=1000):
        """Answer the next questions so; later ones wait."""
        self.why = why
        for _ in range(times):
            self.told.release()

    async def close(self):
        pass


async def test_what_runs_may_end_before(make_middle):
    middle = make_middle(checks=OFTEN)
    middle.make_executor = Serves
    await middle.model.load()
    first = middle.fake
    first.says("its context is lost", times=1)
    await until(lambda: not middle.model.ready)
    running = asyncio.create_task(ask(middle, 2))
    await first.begun.wait()
    first.says("its context is lost", times=2)
    await until(lambda: all(each.draining for each in middle.runner.observe().instances))
    assert lost(middle) == {}
    first.ends.set()
    assert await running == 2.0
    await until(lambda: middle.fake is not first and middle.model.ready)
    assert lost(middle) == {LossReason.UNHEALTHY: 1}


async def test_without_restarts_it_stays_and_serves(make_middle, caplog):
    middle = make_middle(checks=OFTEN, restart=RestartPlan(limit=1))
    middle.make_executor = Serves
    await middle.model.load()
    middle.fake.says("its context is lost")
    await until(lambda: len(middle.fakes) == 2 and middle.model.ready)
    middle.fake.says("its context is lost")
    await until(lambda: "its restarts are used up, and it stays" in caplog.text)
    middle.fake.ends.set()
    assert await ask(middle, 2) == 2.0
    assert len(middle.fakes) == 2
    assert lost(middle) == {LossReason.UNHEALTHY: 1}
    middle.fake.why = None
    await until(lambda: middle.model.ready)
