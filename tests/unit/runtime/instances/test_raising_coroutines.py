"""Async executors that raise a `BaseException`: their own call fails, and nothing else ends."""

from __future__ import annotations

import asyncio

import pytest

from batcher.clock import MILLISECOND
from batcher.errors import ModelLoadError
from batcher.executor import Capabilities
from batcher.runtime.health import ModelState
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.replacement import RestartPlan
from batcher.testing import FakeExecutor

ERRORS = [asyncio.CancelledError, SystemExit, KeyboardInterrupt]


async def until(condition):
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


class Remote:
    """Answers; each method raises what a test has set."""

    capabilities = Capabilities(dynamic_axes=True, max_in_flight=8)

    def __init__(self, **errors):
        self.fake = FakeExecutor()
        self.errors = errors

    def _raise(self, method):
        if method in self.errors:
            raise self.errors[method]

    async def load(self, context):
        self._raise("load")
        return self.fake.load(context)

    async def execute(self, batch):
        self._raise("execute")
        return self.fake.execute(batch)

    async def healthy(self):
        self._raise("healthy")

    async def close(self):
        self._raise("close")


@pytest.mark.parametrize("error", ERRORS)
async def test_a_cancelled_health_check_is_repeated(make_middle, error):
    middle = make_middle(checks=HealthCheckPlan(interval_ns=MILLISECOND))
    middle.make_executor = Remote
    await middle.model.load()
    middle.fake.errors["healthy"] = error()
    await until(lambda: not middle.model.ready)
    assert middle.model.health.reason == error.__name__
    del middle.fake.errors["healthy"]
    await until(lambda: middle.model.ready)


@pytest.mark.parametrize("error", ERRORS)
async def test_a_load_that_was_cancelled_has_failed(make_middle, error):
    middle = make_middle()
    middle.make_executor = lambda: Remote(load=error())
    with pytest.raises(ModelLoadError, match=f"could not load: {error.__name__}"):
        await middle.model.load()
    assert middle.model.state is ModelState.FAILED


@pytest.mark.parametrize("error", ERRORS)
async def test_a_cancelled_reload_is_repeated(make_middle, error):
    middle = make_middle(restart=RestartPlan(1_000_000, 1_000_000, None))
    middle.make_executor = Remote
    await middle.model.load()
    errors = [error(), error()]
    middle.make_executor = lambda: Remote(load=errors.pop()) if errors else Remote()
    middle.model._instances[0]._hung("a batch did not end", 1, "execute_timeout")
    await until(lambda: middle.model.ready)
    assert len(middle.fakes) == 4
    assert await middle.batcher.infer(middle.request())


@pytest.mark.parametrize("error", ERRORS)
async def test_a_cancelled_close_ends_nothing_else(make_middle, error):
    middle = make_middle()
    middle.make_executor = lambda: Remote(close=error())
    await middle.model.load()
    await middle.model.close(1.0)
    assert not middle.model.some_up
