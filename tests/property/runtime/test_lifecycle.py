"""Whatever is loaded, loaded again, unloaded and removed meanwhile: each request ends once, as it should.

A request that arrives while its model is ready is answered by the generation that was current then, or
cancelled by its caller. One that arrives while it is not is refused at once. In the end nothing is left:
no model or instance in the scheduler, no executor that is loaded, no task, no metric of a model that is gone.
Everything from `ModelManager` and `Batcher.infer` down is real; clock, timers and executors are manual.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from batcher import plugins
from batcher.config import parse_config
from batcher.core.scheduler import Scheduler
from batcher.errors import ModelLoadError, ModelUnavailable, OutOfMemory, RequestError, UnknownModel
from batcher.executor import BatchResult, Capabilities, ModelMetadata, TensorSpec
from batcher.lifecycle import LoadParameters, ModelManager
from batcher.model_builder import ModelBuilder
from batcher.runtime.health import Health
from batcher.runtime.instances.plan import ProcessContext
from batcher.runtime.instances.turns import DeviceTurns
from batcher.runtime.models.model import model_key
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.request import InferenceRequest
from batcher.runtime.runner import Runner
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.tensors import Tensor
from batcher.testing import ManualClock
from batcher.testing.invariants import validate

TURNS = 25
NAMES = ("a", "b")
VARIANTS = (
    {},
    {"instances": 2},
    {"instances": 3, "reload": "one_by_one"},
    {"reload": "one_by_one"},
    {"batching": {"policy": "fixed", "max_batch_size": 64}},
    {"batching": {"policy": "fixed"}, "queue": {"max_rows": 1000}},
    {"executor": "missing"},
    None,
)
"""What the file may say of a model; None: nothing."""


class NoTimer:
    def __init__(self, callback):
        pass

    def arm(self, at_ns):
        pass

    def close(self):
        pass


class ByHand:
    """Loads and executes when the test says so. Its answers name the generation that it is of."""

    capabilities = Capabilities(max_in_flight=4)

    def __init__(self, world, key):
        self.world, self.key = world, key
        self.loaded = False

    async def load(self, context):
        end = asyncio.get_running_loop().create_future()
        self.world.loads.append(end)
        await end
        self.loaded = True
        self.world.loaded.add(self)
        x, y = TensorSpec("X", "FP32", (-1, 1)), TensorSpec("Y", "FP32", (-1, 1))
        return ModelMetadata("by hand", (x,), (y,))

    async def execute(self, batch):
        end = asyncio.get_running_loop().create_future()
        self.world.batches.append(end)
        await end
        number = float(self.world.keys.index(self.key))
        return BatchResult({"Y": np.full((batch.rows, 1), number, np.float32)})

    async def close(self):
        assert self.loaded
        self.loaded = False
        self.world.loaded.discard(self)


class Builder(ModelBuilder):
    """Gives each generation executors of its own."""

    world = None

    def build(self, prepared, generation):
        config = prepared.wanted.config
        key = model_key(config.name, config.version, generation)
        if key not in self.world.keys:
            self.world.keys.append(key)
        if config.executor == "fake":
            prepared = replace(prepared, make_executor=lambda: ByHand(self.world, key))
        return super().build(prepared, generation)


class World:
    async def open(self):
        loop = asyncio.get_running_loop()
        self.problems, self.loads, self.batches, self.keys = [], [], [], []
        self.loaded, self.callers, self.changes = set(), [], []
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.clock = ManualClock()
        self.scheduler = Scheduler()
        self.runner = Runner(self.scheduler, loop, self.clock, NoTimer)
        self.prometheus = CollectorRegistry()
        self.telemetry = Telemetry(self.prometheus, clock=self.clock)
        self.telemetry.watch(self.runner.observe)
        self.health = Health()
        process = ProcessContext(
            self.runner,
            loop,
            self.clock,
            turns=DeviceTurns(self.runner),
            changed=self.health.changed,
        )
        self.registry = ModelRegistry()
        builder = Builder(process, self.telemetry)
        builder.world = self
        self.file = dict.fromkeys(NAMES, VARIANTS[0])
        self.manager = ModelManager(self.config(), builder, self.registry, process, self.telemetry)
        self.batcher = Batcher(self.registry, self.runner, self.telemetry, self.clock, self.health)
        starting = asyncio.create_task(self.manager.start())
        await self.settle()
        await self.end_all(self.loads)
        await starting
        self.manager.started()
        self.health.started()

    def config(self):
        common = {
            "executor": "fake",
            "warmup": {"batch_sizes": []},
            "max_in_flight": 2,
            "batching": {"policy": "fixed"},
        }
        models = [{"name": n} | common | v for n, v in self.file.items() if v is not None]
        return parse_config(json.dumps({"models": models}), "test", {})

    async def settle(self):
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def end_all(self, futures):
        """End loads or batches, and those that begin because of that."""
        while open_ := [each for each in futures if not each.done()]:
            for each in open_:
                each.set_result(None)
            await self.settle()

    # Actions

    async def ask(self, which):
        arrived = []
        task = asyncio.create_task(self.call(NAMES[which % 2], 1 + which % 3, arrived))
        self.callers.append((task, arrived))
        if which % 7 == 6:
            await asyncio.sleep(0)
            task.cancel()

    async def call(self, name, rows, arrived):
        """Make a request; `arrived` gets the generation that was ready when it arrived, or None."""
        try:
            model = self.registry.find(name)
            arrived.append(model.key if model.ready else None)
        except UnknownModel:
            arrived.append(None)
        inputs = {"X": Tensor("FP32", np.zeros((rows, 1), np.float32))}
        return await self.batcher.infer(InferenceRequest(name, inputs, self.clock()))

    async def load(self, which):
        name = NAMES[which % 2]
        self.changes.append(asyncio.create_task(self.manager.load(name, LoadParameters())))

    async def unload(self, which):
        self.changes.append(asyncio.create_task(self.manager.unload(NAMES[which % 2])))

    async def write(self, which):
        name = NAMES[which % 2]
        before = self.file[name]
        self.file[name] = VARIANTS[which // 2 % len(VARIANTS)]
        if not any(value is not None for value in self.file.values()):
            self.file[name] = before
        self.manager.follow(self.config())

    async def end_load(self, which):
        open_ = [each for each in self.loads if not each.done()]
        if open_:
            end = open_[which % len(open_)]
            if which % 5 == 4:
                end.set_exception(ModelLoadError("broken"))
            elif which % 5 == 3:
                end.set_exception(OutOfMemory("no room"))
            else:
                end.set_result(None)

    async def end_batch(self, which):
        open_ = [each for each in self.batches if not each.done()]
        if open_:
            open_[which % len(open_)].set_result(None)

    # What must hold

    def check(self):
        assert self.problems == []
        validate(self.scheduler)
        for task, arrived in self.callers:
            if task.done():
                self.check_end(task, *arrived)
        names = {(m.name, m.version) for m in self.registry}
        assert names == {(h.name, h.version) for h in self.health.report().models}
        samples = [s for family in self.prometheus.collect() for s in family.samples]
        seen = [(s.name, tuple(sorted(s.labels.items()))) for s in samples]
        assert len(seen) == len(set(seen)), "a series twice"

    def check_end(self, task, key=None):
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            answered_by = {self.keys[int(n)] for n in task.result().outputs["Y"].array[:, 0]}
            assert answered_by == {key}, "answered by another generation"
        else:
            assert isinstance(error, RequestError), error
            assert key is None, f"refused though {key} was ready: {error}"
            assert isinstance(error, ModelUnavailable | UnknownModel)

    async def close(self):
        """End everything that is under way, then check that nothing is left."""
        while not all(task.done() for task in self.changes) or self.manager._tasks:
            await self.end_all(self.batches)
            await self.end_all(self.loads)
            await self.settle()
        await self.end_all(self.batches)
        await self.end_all(self.loads)
        await self.settle()
        assert all(task.done() for task, _ in self.callers)
        for change in self.changes:
            assert not change.cancelled()
            assert isinstance(change.exception(), RequestError | None)
        self.check()
        served = {name for name, value in self.file.items() if value is not None}
        assert {model.name for model in self.registry} == served
        labels = {s.labels.get("model") for f in self.prometheus.collect() for s in f.samples}
        assert labels - {None, ""} == served
        assert {m.model for m in self.runner.observe().models} == {
            model.key for model in self.registry if model.ready
        }
        await self.manager.close()
        assert not self.runner.observe().models
        assert not self.runner.observe().instances
        assert not self.loaded
        assert not self.telemetry._keys
        assert not self.manager._tasks
        assert self.runner.unanswered == 0
        self.runner.close()
        await self.settle()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


ACTIONS = ("ask", "ask", "ask", "load", "unload", "write", "end_load", "end_load", "end_batch")

stories = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 69), st.integers(0, 4)),
    min_size=1,
    max_size=50,
)


async def inline(function, *arguments):
    return function(*arguments)


def find(name):
    if name == "missing":
        raise plugins.PluginError("no executor named 'missing'")
    return ByHand


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    monkeypatch.setattr(asyncio, "to_thread", inline)
    monkeypatch.setattr(plugins, "find_executor", find)


async def play(story):
    world = World()
    await world.open()
    for action, which, turns in story:
        await getattr(world, action)(which)
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 4:
            await world.settle()
            world.check()
    await world.settle()
    await world.close()


@settings(deadline=None)
@given(stories)
def test_each_request_ends_as_it_should_and_nothing_is_left(story):
    asyncio.run(play(story))
