"""Executors that watch their backend: what they report is known at once, and what their end means."""

from __future__ import annotations

import asyncio

import pytest

from batcher.executor import Capabilities, ModelMetadata, TensorSpec, Watches
from batcher.runtime.health import ModelState
from batcher.runtime.instances import watching
from batcher.runtime.instances.replacement import RestartPlan
from batcher.testing import FakeExecutor

OTHER = ModelMetadata(
    "fake", (TensorSpec("X", "FP32", (-1, 3)),), (TensorSpec("Y", "FP32", (-1, 3)),)
)


class Watched:
    """An async executor whose watch a test ends, and whose batches it holds."""

    capabilities = Capabilities(max_in_flight=2)

    def __init__(self, metadata=None):
        self.fake = FakeExecutor(metadata=metadata)
        self.report = None
        self.watches = 0
        self.closed = False
        self.cancelled = False
        self.end = asyncio.Event()
        self.error = None
        self.free = asyncio.Event()
        self.free.set()

    async def load(self, context):
        return self.fake.load(context)

    async def execute(self, batch):
        await self.free.wait()
        return self.fake.execute(batch)

    async def close(self):
        self.closed = True

    async def watch(self, report):
        self.report = report
        self.watches += 1
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.end.clear()
        if self.error is not None:
            raise self.error


async def until(condition):
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.0005)


@pytest.fixture
async def middle(make_middle, monkeypatch):
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(watching, "SETTLED_S", 0.0)
    middle = make_middle(restart=RestartPlan(1_000_000, 1_000_000, None))
    middle.make_executor = Watched
    await middle.model.load()
    await until(lambda: middle.fake.watches)
    return middle


async def test_a_report_is_known_at_once(middle):
    assert isinstance(middle.fake, Watches)
    changes = middle.changes
    middle.fake.report("the neighbor\nis away")
    assert middle.model.state is ModelState.READY
    assert not middle.model.ready
    assert middle.model.health.reason == "the neighbor is away"
    assert middle.changes == changes + 1
    middle.fake.report("the neighbor is away")
    assert middle.changes == changes + 1
    middle.fake.report("")
    assert middle.model.ready
    assert middle.changes == changes + 2


async def test_an_unhealthy_instance_executes_all_the_same(middle):
    middle.fake.report("why")
    assert await middle.batcher.infer(middle.request())


async def test_what_is_no_text_is_reported_as_such(middle):
    middle.fake.report(None)
    assert middle.model.health.reason == "watch() reported None, not a text"


async def test_when_it_returns_the_model_is_loaded_again_and_it_serves_until_then(middle):
    asked = []
    middle.model._process.load_again = asked.append
    middle.fake.end.set()
    await until(lambda: asked)
    assert asked[0] == "m/1"
    assert middle.model.ready
    assert await middle.batcher.infer(middle.request())
    # A load may fail: it is asked for again while the incarnation is up.
    await until(lambda: len(asked) > 1)
    await middle.model.close(1.0)
    asked.clear()
    for _ in range(20):
        await asyncio.sleep(0)
    assert asked == []


async def test_a_load_that_cannot_be_asked_for_is_asked_for_again(middle):
    asked = []

    def load_again(key):
        asked.append(key)
        raise RuntimeError("no luck")

    middle.model._process.load_again = load_again
    middle.fake.end.set()
    await until(lambda: len(asked) > 2)
    assert middle.model.ready


async def test_one_that_returns_at_once_has_served_for_some_time_first(middle, monkeypatch):
    monkeypatch.setattr(watching, "SETTLED_S", 60.0)
    asked = []
    middle.model._process.load_again = asked.append
    middle.fake.end.set()
    await until(lambda: not middle.fake.end.is_set())
    for _ in range(20):
        await asyncio.sleep(0)
    assert asked == []


async def test_what_is_reported_after_the_end_is_ignored(middle):
    await middle.model.close(1.0)
    changes = middle.changes
    middle.fake.report("why")
    assert middle.changes == changes


async def test_a_watch_that_raises_counts_as_a_report_and_is_called_again(middle):
    middle.fake.error = RuntimeError("no luck")
    middle.fake.end.set()
    await until(lambda: middle.model.health.reason == "watch() raised RuntimeError: no luck")
    await until(lambda: middle.fake.watches == 2)
    middle.fake.report("")
    assert middle.model.ready


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyError])
async def test_a_watch_that_raises_anything_is_well_when_it_runs_on(middle, error):
    middle.fake.error = error()
    middle.fake.end.set()
    await until(lambda: not middle.model.ready)
    assert error.__name__ in middle.model.health.reason
    middle.fake.error = None
    await until(lambda: middle.model.ready)
    assert middle.fake.watches == 2
    assert len(middle.fakes) == 1


async def test_an_instance_that_hangs_and_comes_back_with_another_interface(middle):
    asked = []
    middle.model._process.load_again = asked.append
    middle.make_executor = lambda: Watched(OTHER)
    middle.model._instances[0]._hung("a batch did not end", 1, "execute_timeout")
    await until(lambda: asked)
    assert asked[0] == "m/1"
    assert "other inputs or outputs" in middle.model.health.reason
    middle.make_executor = Watched
    await until(lambda: middle.model.ready)


async def test_it_ends_with_its_instance_and_before_the_executor_is_closed(middle):
    seen, close = [], middle.fake.close

    async def closed():
        seen.append(middle.fake.cancelled)
        await close()

    middle.fake.close = closed
    await middle.model.close(1.0)
    assert seen == [True]
    assert middle.fake.closed
    assert len(middle.fakes) == 1
