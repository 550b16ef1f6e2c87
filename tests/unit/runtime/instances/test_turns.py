"""Warm-up batches take turns with what serves on their device."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from batcher.clock import SECOND
from batcher.runtime.instances import turns as module
from batcher.runtime.instances.turns import DeviceTurns


class Instance:
    instance = "m/1#0"
    device = "gpu0"
    in_flight = 0


class Runner:
    """Keeps what the scheduler is told; batches end when the test says so."""

    def __init__(self):
        self.instances, self.told = [], []
        self.idle_s = 0.0
        self.ended = asyncio.Event()

    def observe(self):
        return self

    def feed(self, event):
        self.told.append(event.max_in_flight)

    def idle_ns(self, instances):
        assert set(instances) <= {"m/1#0"}
        return self.idle_s * SECOND

    async def batch_ended(self):
        self.ended.clear()
        await self.ended.wait()


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def turns(runner, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    monkeypatch.setattr(module, "SHARE", 1.0)
    turns = DeviceTurns(runner)
    turns.limit("gpu0", 1)
    return turns


async def until(condition):
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def test_nothing_is_waited_for_while_nothing_serves(runner, turns):
    async with turns.turn("gpu0") as shared:
        assert not shared
    async with turns.turn("gpu1") as shared:
        assert not shared
    assert runner.told == [1]


async def test_a_batch_has_the_device_and_gives_it_back(runner, turns):
    runner.instances.append(Instance())
    async with turns.turn("gpu0") as shared:
        assert shared
        assert runner.told == [1, 0]
        turns.limit("gpu0", 2)
        assert runner.told == [1, 0, 1]
    assert runner.told == [1, 0, 1, 2]
    turns.limit("gpu0", None)
    assert runner.told[-1] is None


async def test_a_device_that_is_not_used_is_not_waited_for(runner, turns, monkeypatch):
    monkeypatch.setattr(module, "SHARE", 1e-9)
    runner.instances.append(Instance())
    runner.idle_s = module.UNUSED_S
    for _ in range(3):
        async with turns.turn("gpu0") as shared:
            assert not shared
            assert runner.told[-1] == 0
    assert runner.told[-1] == 1


async def test_a_batch_that_takes_longer_is_a_use_of_the_device(runner, turns):
    turns.limit("gpu0", 2)
    instance = Instance()
    instance.in_flight = 1
    runner.instances.append(instance)
    runner.idle_s = 60.0
    async with turns.turn("gpu0") as shared:
        assert shared


async def test_it_waits_for_what_runs_and_nothing_new_starts_then(runner, turns):
    instance = Instance()
    instance.in_flight = 1
    runner.instances.append(instance)
    entered = asyncio.Event()

    async def warm():
        async with turns.turn("gpu0"):
            entered.set()

    warming = asyncio.create_task(warm())
    await until(lambda: runner.told == [1, 0])  # its patience is over
    assert not entered.is_set()
    instance.in_flight = 0
    runner.ended.set()
    await warming
    assert runner.told == [1, 0, 1]


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_a_batch_that_compiles_for_long_does_not_keep_the_device(
    runner, turns, monkeypatch, error
):
    monkeypatch.setattr(module, "HELD_S", 0.001)
    runner.instances.append(Instance())
    with pytest.raises(ValueError) if error else nullcontext():
        async with turns.turn("gpu0"):
            await until(lambda: runner.told == [1, 0, 1])
            if error:
                raise error
    assert runner.told == [1, 0, 1]


async def test_two_warm_ups_take_turns(runner, turns):
    runner.instances.append(Instance())
    inside = 0

    async def warm():
        nonlocal inside
        async with turns.turn("gpu0"):
            inside += 1
            await asyncio.sleep(0)
            assert inside == 1
            inside -= 1

    await asyncio.gather(*(warm() for _ in range(5)))
    assert runner.told[-1] == 1
