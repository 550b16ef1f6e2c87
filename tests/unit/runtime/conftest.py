"""A `Batcher` above one model whose executors are fakes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.executor import LoadContext
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.models.model import ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.request import InferenceRequest
from batcher.runtime.runner import Runner
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.telemetry.devices import DeviceWatcher
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

    def __init__(self, clock=None, devices=None, **plan):
        loop = asyncio.get_running_loop()
        self.problems = []
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.clock = ManualClock() if clock is None else clock
        self.runner = Runner(Scheduler(), loop, self.clock, NoTimer)
        telemetry = Telemetry(CollectorRegistry(), clock=self.clock)
        self.fakes = []
        """Every executor that was made, the last one last."""
        self.make_executor = FakeExecutor
        self.changes = 0
        plan = InstancePlan(
            name="m#0",
            key="m/1",
            context=LoadContext("m", "1", 0, "cpu", 8, {}),
            make_executor=self._made,
            **{
                "max_in_flight": 1,
                "execute_timeout_ns": 10**12,
                "warmup": WarmupPlan((), 1),
                **plan,
            },
        )
        self.model = ServedModel(
            "m",
            "1",
            "fake",
            ModelSettings(8, FixedWindow(0)),
            [plan],
            ProcessContext(
                self.runner,
                loop,
                self.clock,
                changed=self._changed,
                devices=devices or DeviceWatcher(),
            ),
            telemetry.model("m/1", "m", "1"),
        )
        self.batcher = Batcher(ModelRegistry([self.model]), self.runner, telemetry, self.clock)

    async def answer(self, request, encode, loss=None):
        """Answer a request, and end it as the transport would."""
        exchange = self.batcher.begin(request.arrival_ns)
        try:
            return await self.batcher.answer(request, encode, exchange)
        finally:
            exchange.ended(loss)

    def _made(self):
        self.fakes.append(self.make_executor())
        return self.fakes[-1]

    def _changed(self):
        self.changes += 1

    @property
    def fake(self):
        return self.fakes[-1]

    def request(self, *, columns=2, **fields):
        rows = np.ones((1, columns), np.float32)
        return InferenceRequest("m", {"X": Tensor("FP32", rows)}, self.clock(), **fields)

    def counted(self):
        return {key: count for key, count in self.model.telemetry.requests.items() if count}


@pytest.fixture
async def make_middle():
    """A function from further fields of the instance's plan to a `Middle` that is not loaded yet."""
    made = []

    def make(**plan):
        made.append(Middle(**plan))
        return made[-1]

    yield make
    for middle in made:
        await middle.model.close(1.0)
        middle.runner.close()


@pytest.fixture
async def middle(make_middle):
    """One that is loaded."""
    middle = make_middle()
    await middle.model.load()
    return middle
