"""Instances of a model that is loaded again one after the other: the device has no room for both."""

from __future__ import annotations

import asyncio

import pytest

from batcher.errors import BackendUnavailable, ModelLoadError, ModelUnavailable
from batcher.lifecycle import LoadParameters
from batcher.runtime.models import model as models

NONE = LoadParameters()
RELOADS = "batcher_model_reloads_total"


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch):
    monkeypatch.setattr(models, "FIRST_RETRY_S", 0.0001)


class TestOneByOne:
    @pytest.fixture
    async def several(self, make_world):
        """A function to a world with some instances of `m`, and room for no more."""

        async def make(instances, **model):
            world = await make_world({"name": "m", "instances": instances, **model}).start()
            world.room.most = instances
            return world

        return make

    @pytest.mark.parametrize("instances", [1, 2, 3])
    async def test_a_device_without_room_for_both(self, several, instances, caplog):
        world = await several(instances)
        await world.manager.load("m", NONE)
        assert "no room for a second generation" in caplog.text
        assert (await world.infer()).sum() == 4
        assert world.state() == ("ready", "")
        assert [i.partition("#")[0] for i in world.observed()[1]] == ["m/1~3"] * instances
        assert world.room.used == instances
        assert world.metric(RELOADS, result="succeeded") == 1

    async def test_it_never_loads_beside_where_the_setting_says_so(self, several):
        world = await several(2, reload="one_by_one")
        await world.manager.load("m", NONE)
        assert len(world.fakes) == 4
        assert [i.partition("#")[0] for i in world.observed()[1]] == ["m/1~2"] * 2

    async def test_the_only_instance_answers_what_it_has_accepted(self, several, until):
        world = await several(1, reload="one_by_one")
        hang = world.fakes[0].hang_next()
        accepted = [world.begin() for _ in range(3)]
        await asyncio.to_thread(hang.wait_entered)
        load = asyncio.create_task(world.manager.load("m", NONE))
        await until(lambda: world.state()[0] == "loading")
        assert world.state()[1] == "its only instance is being replaced by generation 2"
        assert not world.health.report().ready
        with pytest.raises(ModelUnavailable, match="being replaced") as refused:
            await world.infer()
        assert refused.value.retry_after_ns
        hang.release()
        assert [(await each).sum() for each in accepted] == [4, 4, 4]
        await load
        assert (await world.infer()).sum() == 4
        assert world.health.report().ready

    @pytest.mark.parametrize("instances", [1, 2])
    async def test_a_failure_brings_the_old_one_back(self, several, instances):
        world = await several(instances, reload="one_by_one")
        world.fakes[0].load_error = None
        made = []

        def find(_):
            def make():
                made.append(world.find("fake")())
                if len(made) == 1:
                    made[0].load_error = ModelLoadError("m: broken weights")
                return made[-1]

            return make

        real, world.manager._builder.prepare = world.manager._builder.prepare, None
        world.manager._builder.prepare = lambda wanted: _with(real(wanted), find("fake"))
        with pytest.raises(ModelUnavailable, match="broken weights"):
            await world.manager.load("m", NONE)
        assert world.state() == ("ready", "reload failed: m: broken weights")
        assert (await world.infer()).sum() == 4
        assert [i.partition("#")[0] for i in world.observed()[1]] == ["m/1"] * instances
        assert world.metric(RELOADS, result="failed") == 1

    async def test_a_failure_after_it_has_taken_over_loads_the_one_before_again(
        self, several, monkeypatch
    ):
        world = await several(3, reload="one_by_one")
        failing = [None, None, ModelLoadError("m: the third is broken")]
        made = []

        def make():
            made.append(world.find("fake")())
            if len(made) <= len(failing):
                made[-1].load_error = failing[len(made) - 1]
            return made[-1]

        real = world.manager._builder.prepare
        monkeypatch.setattr(
            world.manager._builder, "prepare", lambda wanted: _with(real(wanted), make)
        )
        with pytest.raises(
            ModelUnavailable, match="the third is broken; the one before was loaded"
        ):
            await world.manager.load("m", NONE)
        assert (await world.infer()).sum() == 4
        assert "reload failed: m: the third is broken" in world.state()[1]
        assert [i.partition("#")[0] for i in world.observed()[1]] == ["m/1~3"] * 3

    async def test_nothing_is_left_of_what_was_to_come_back_when_it_is_unloaded_meanwhile(
        self, several, monkeypatch, until
    ):
        world = await several(3, reload="one_by_one")
        errors = [None, None, ModelLoadError("m: broken"), BackendUnavailable("m: not up")]
        made = []

        def make():
            made.append(world.find("fake")())
            made[-1].load_error = errors[min(len(made), len(errors)) - 1]
            return made[-1]

        real = world.manager._builder.prepare
        monkeypatch.setattr(
            world.manager._builder, "prepare", lambda wanted: _with(real(wanted), make)
        )
        load = asyncio.create_task(world.manager.load("m", NONE))
        await until(lambda: len(made) > 4)
        await world.manager.unload("m")
        with pytest.raises(ModelUnavailable, match="unloaded"):
            await load

    async def test_nothing_is_left_when_both_fail(self, several):
        world = await several(1, reload="one_by_one")
        world.options = {"load_error": ModelLoadError("m: broken")}
        world.fakes[0].load_error = ModelLoadError("m: broken")
        real = world.manager._models["m", "1"].served._instances[0].plan.make_executor
        assert real
        with pytest.raises(ModelUnavailable, match="could not be loaded again either"):
            await world.manager.load("m", NONE)
        assert world.state()[0] == "failed"
        assert world.observed() == ([], [])
        world.options = {}
        await world.manager.load("m", NONE)
        assert (await world.infer()).sum() == 4

    async def test_an_unload_meanwhile_leaves_nothing(self, several, until):
        world = await several(2, reload="one_by_one")
        world.options = {"load_error": BackendUnavailable("m: not up yet")}
        load = asyncio.create_task(world.manager.load("m", NONE))
        await until(lambda: len(world.fakes) > 3)
        assert (await world.infer()).sum() == 4
        await world.manager.unload("m")
        with pytest.raises(ModelUnavailable, match="unloaded"):
            await load
        assert world.observed() == ([], [])

    async def test_other_numbers_of_instances(self, several):
        world = await several(1, reload="one_by_one")
        world.room.most = 4
        for instances in (4, 2, 1, 3):
            config = world.config([{"name": "m", "instances": instances, "reload": "one_by_one"}])
            world.manager.follow(config)
            await asyncio.gather(*world.manager._tasks)
            assert len(world.observed()[1]) == instances
            assert (await world.infer()).sum() == 4


def _with(prepared, make):
    return models.replace(prepared, make_executor=make)
