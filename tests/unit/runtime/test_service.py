"""The middle: however a request ends, it is counted once, as it ended."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.errors import AnswerTooLarge
from batcher.executor import LoadContext
from batcher.runtime.instances import Home, InstancePlan
from batcher.runtime.models import ModelRegistry, ServedModel
from batcher.runtime.request import InferenceRequest
from batcher.runtime.runner import Runner
from batcher.runtime.warmup import WarmupPlan
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.tensors import Tensor
from batcher.testing import FakeExecutor, ManualClock


class NoTimer:
    def __init__(self, callback):
        pass

    def arm(self, at_ns):
        pass

    def close(self):
        pass


class Middle:
    """A `Batcher` above one fake executor."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.problems = []
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.clock = ManualClock()
        self.runner = Runner(Scheduler(), loop, self.clock, NoTimer)
        telemetry = Telemetry(CollectorRegistry(), clock=self.clock)
        self.fake = FakeExecutor()
        plan = InstancePlan(
            name="m#0",
            key="m/1",
            context=LoadContext("m", "1", 0, "cpu", 8, {}),
            make_executor=lambda: self.fake,
            max_in_flight=1,
            execute_timeout_ns=10**12,
            warmup=WarmupPlan((), 1),
        )
        self.model = ServedModel(
            "m",
            "1",
            "fake",
            ModelSettings(8, FixedWindow(0)),
            [plan],
            Home(self.runner, loop, self.clock),
            telemetry.model("m/1", "m", "1"),
        )
        self.batcher = Batcher(ModelRegistry([self.model]), self.runner, telemetry, self.clock)

    def request(self, **fields):
        rows = np.ones((1, 2), np.float32)
        return InferenceRequest("m", {"X": Tensor("FP32", rows)}, self.clock(), **fields)

    def counted(self):
        return {key: count for key, count in self.model.telemetry.requests.items() if count}


@pytest.fixture
async def middle():
    middle = Middle()
    await middle.model.load()
    yield middle
    await middle.model.unload(1.0)
    middle.runner.close()


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (AnswerTooLarge("large"), ("failed", "answer_too_large")),
        (ValueError("no"), ("failed", "internal")),
    ],
)
async def test_an_answer_that_is_not_encoded_has_failed(middle, error, end):
    async def encode(_):
        raise error

    with pytest.raises(type(error)):
        await middle.batcher.answer(middle.request(), encode)
    assert middle.counted() == {end: 1}


@pytest.mark.parametrize("late", [False, True])
async def test_a_caller_who_leaves_while_its_answer_is_encoded_has_left(middle, late):
    reached = asyncio.Event()

    async def encode(_):
        reached.set()
        await asyncio.Event().wait()

    request = middle.request(deadline_ns=middle.clock() + 5 if late else None)
    call = asyncio.create_task(middle.batcher.answer(request, encode))
    await reached.wait()
    middle.clock.advance(10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    end = ("expired", "caller_deadline") if late else ("cancelled", "caller_cancelled")
    assert middle.counted() == {end: 1}


async def test_what_counting_raises_keeps_no_answer_back(middle, monkeypatch):
    monkeypatch.setattr(middle.model.telemetry, "request_ended", boom)
    reply = await middle.batcher.infer(middle.request())
    assert reply.outputs["Y"].array.tolist() == [[2, 2]]


@pytest.mark.parametrize("name", ["execution_ended", "batch_finished"])
async def test_what_counting_a_batch_raises_keeps_no_answer_back(middle, monkeypatch, name):
    with monkeypatch.context() as broken:
        broken.setattr(middle.model.telemetry, name, boom)
        assert await middle.batcher.infer(middle.request())
    assert await middle.batcher.infer(middle.request())
    assert [str(problem["exception"]) for problem in middle.problems] == ["boom"]
    assert middle.fake.released == 2


async def test_a_batch_that_cannot_begin_leaves_nothing_behind(middle, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(middle.model.telemetry, "execution_started", boom)
        with pytest.raises(Exception, match="boom"):
            await middle.batcher.infer(middle.request())
    assert await middle.batcher.infer(middle.request())
    assert middle.counted() == {("failed", "unknown"): 1, ("ok", ""): 1}
    assert middle.problems == []


def boom(*_, **__):
    raise RuntimeError("boom")
