"""A change of buckets: in place, or with a load where the executor has compiled for those that it has."""

import asyncio

import pytest

from batcher.executor import ModelMetadata, TensorSpec
from batcher.live_settings.settings import _unfit


def metadata(*, fixed):
    spec = {"datatype": "FP32", "shape": (-1, -1), "dims": (None, "length")}
    inputs, outputs = TensorSpec("X", **spec), TensorSpec("Y", **spec)
    return ModelMetadata("fake", (inputs,), (outputs,), fixed_buckets=fixed)


def padded(*buckets, **keys):
    return {"name": "m", "padding": [{"input": "X", "axis": 1, "buckets": list(buckets)}], **keys}


@pytest.fixture(params=[False, True], ids=["any", "fixed"])
async def world(request, make_world):
    world = make_world(padded(4, 8))
    world.fixed = request.param
    world.options = {"metadata": metadata(fixed=world.fixed)}
    return await world.start()


async def follow(world, *models):
    world.manager.follow(world.config(list(models)))
    await asyncio.gather(*world.manager._tasks)


async def test_a_change_of_buckets_loads_again_what_has_compiled_for_them(world):
    assert [fake.context.buckets for fake in world.fakes] == [{"X": {1: (4, 8)}}]
    await follow(world, padded(4, 16))
    assert world.state() == ("ready", "")
    assert len(world.fakes) == 1 + world.fixed
    assert world.registry.find("m", "").padding.axes[0].buckets == (4, 16)
    if world.fixed:
        assert world.fakes[-1].context.buckets == {"X": {1: (4, 16)}}


async def test_another_setting_loads_nothing(world):
    await follow(world, padded(4, 8, queue={"max_requests": 7}))
    assert len(world.fakes) == 1


async def test_a_call_cannot_change_what_was_compiled(world):
    served = world.registry.find("m", "")
    why = _unfit(served, world.config([padded(4, 16)]).models[0])
    assert bool(why) == world.fixed
    if why:
        assert "padding: got other buckets" in why
        assert "({'X': {1: (4, 8)}})" in why
    assert not _unfit(served, world.config([padded(4, 8)]).models[0])


async def test_a_replacement_is_told_of_the_buckets_that_are_in_use_now(world):
    if world.fixed:
        pytest.skip("its buckets change with a load only")
    await follow(world, padded(4, 16))
    (instance,) = world.registry.find("m", "")._instances
    for _ in range(2):
        (worker, *_), calls = await instance._load(), world.fakes[-1].calls
        assert world.fakes[-1].context.buckets == {"X": {1: (4, 16)}}
        await worker.close(10)
        assert calls[-1].method == "close"
