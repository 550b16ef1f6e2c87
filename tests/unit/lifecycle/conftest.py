"""A manager above fake executors, with everything below it but listeners."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from batcher import plugins
from batcher.config import parse_config
from batcher.core.scheduler import Scheduler
from batcher.errors import OutOfMemory
from batcher.lifecycle import ModelManager, Source, WantedModel
from batcher.model_builder import ModelBuilder
from batcher.runtime.health import Health
from batcher.runtime.instances.plan import ProcessContext
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.request import InferenceRequest
from batcher.runtime.runner import Runner
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


class Fake(FakeExecutor):
    """A fake that needs room on a device with `most` places."""

    def __init__(self, room, **options):
        super().__init__(**options)
        self.room = room
        self.loaded = False

    def load(self, context):
        metadata = super().load(context)
        if self.room.most is not None and self.room.used >= self.room.most:
            raise OutOfMemory(f"{context.model}: no room on {context.device}")
        self.room.used += 1
        self.loaded = True
        return metadata

    def close(self):
        if self.loaded:
            self.room.used -= 1
        self.loaded = False
        super().close()


class Room:
    most = None
    used = 0


class World:
    """A server without listeners. `options` are those of the next fakes; `fakes` has all of them."""

    def __init__(self, models, monkeypatch, **sections):
        loop = asyncio.get_running_loop()
        self.problems = []
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.fakes = []
        self.room = Room()
        self.options = {}
        monkeypatch.setattr(plugins, "find_executor", self.find)
        self.clock = ManualClock()
        self.scheduler = Scheduler()
        self.runner = Runner(self.scheduler, loop, self.clock, NoTimer)
        self.prometheus = CollectorRegistry()
        self.telemetry = Telemetry(self.prometheus, clock=self.clock)
        self.telemetry.watch(self.runner.observe)
        self.health = Health()
        process = ProcessContext(self.runner, loop, self.clock, changed=self.health.changed)
        self.registry = ModelRegistry()
        self.sections = {"devices": {"cpu": {"max_in_flight": 8}}} | sections
        self.manager = ModelManager(
            self.config(models),
            ModelBuilder(process, self.telemetry),
            self.registry,
            process,
            self.telemetry,
        )
        self.batcher = Batcher(self.registry, self.runner, self.telemetry, self.clock, self.health)

    def find(self, name):
        if name != "fake":
            return self.real(name)

        def make():
            self.fakes.append(Fake(self.room, **self.options))
            return self.fakes[-1]

        return make

    real = staticmethod(plugins.find_executor)

    def config(self, models):
        whole = [{"executor": "fake", "warmup": {"batch_sizes": []}} | model for model in models]
        return parse_config(json.dumps({"models": whole} | self.sections), "test", {})

    def wanted(self, *models, **fields):
        return [WantedModel(self.config([model]).models[0], **fields) for model in models]

    async def start(self):
        await self.manager.start()
        self.manager.started()
        self.health.started()
        return self

    async def serve(self, *models, source=Source.REPOSITORY, **fields):
        """What became of each model of a source, as text."""
        changes = await self.manager.serve(source, self.wanted(*models, **fields))
        return [f"{c.name}/{c.version} {c.result}" for c in changes]

    def request(self, name="m", *, columns=2, **fields):
        rows = np.ones((1, columns), np.float32)
        return InferenceRequest(name, {"X": Tensor("FP32", rows)}, self.clock(), **fields)

    async def infer(self, name="m", **fields):
        return (await self.batcher.infer(self.request(name, **fields))).outputs["Y"].array

    def begin(self, name="m", **fields):
        return asyncio.create_task(self.infer(name, **fields))

    def state(self, name="m", version=""):
        health = self.registry.find(name, version).health
        return str(health.state), health.reason

    def metric(self, name, model="m", version="1", **labels):
        return self.prometheus.get_sample_value(
            name, {"model": model, "version": version, **labels}
        )

    def close_calls(self):
        return [fake.calls[-1].method == "close" for fake in self.fakes]

    def observed(self):
        observation = self.runner.observe()
        return sorted({m.model for m in observation.models}), sorted(
            i.instance for i in observation.instances
        )


@pytest.fixture
async def make_world(monkeypatch, until):
    """A function from models of the configuration file to a `World` that is not started."""
    made = []

    def make(*models, **sections):
        made.append(World(models, monkeypatch, **sections))
        return made[-1]

    yield make
    for world in made:
        await world.manager.close()
        assert world.observed() == ([], [])
        assert world.telemetry._keys == {}
        assert not world.manager._tasks
        # Executors of instances that were abandoned close on their own threads.
        await until(lambda world=world: world.room.used == 0)
        assert world.problems == []
        world.runner.close()


@pytest.fixture
async def world(make_world):
    """One that serves `m`."""
    return await make_world({"name": "m"}).start()


@pytest.fixture
def until():
    """A function that waits until a condition holds."""

    async def until(condition):
        async with asyncio.timeout(10):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.001)

    return until
