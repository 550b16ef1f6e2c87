"""A model that is served is loaded again: beside what serves, which drains, or not at all."""

from __future__ import annotations

import asyncio
import threading

import pytest

from batcher.errors import BackendUnavailable, ModelLoadError, ModelUnavailable
from batcher.lifecycle import LoadParameters
from batcher.lifecycle.wanted import Source
from batcher.runtime.models import model as models
from batcher.testing import FakeExecutor

NONE = LoadParameters()
RELOADS = "batcher_model_reloads_total"


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch):
    monkeypatch.setattr(models, "FIRST_RETRY_S", 0.0001)


class TestBeside:
    async def test_new_requests_go_to_the_new_one_and_accepted_ones_stay(self, world, until):
        first = world.fakes[0]
        hang = first.hang_next()
        accepted = [world.begin() for _ in range(3)]
        await asyncio.to_thread(hang.wait_entered)
        await world.manager.load("m", NONE)
        assert len(world.fakes) == 2
        assert world.state() == ("ready", "")
        assert world.observed()[0] == ["m/1", "m/1~2"]
        assert (await world.infer()).sum() == 4
        assert world.fakes[1].batch_sizes == [1]
        assert not any(each.done() for each in accepted)
        # What waits and runs adds up, under one name.
        assert world.metric("batcher_instances", state="up") == 2
        assert world.metric("batcher_executing_requests") >= 1
        hang.release()
        assert [(await each).sum() for each in accepted] == [4, 4, 4]
        assert sum(first.batch_sizes) == 3
        await until(lambda: world.observed() == (["m/1~2"], ["m/1~2#0"]))
        await until(lambda: first.calls[-1].method == "close")
        assert world.metric("batcher_instances", state="up") == 1
        assert world.metric("batcher_model_generation") == 2
        assert world.metric(RELOADS, result="succeeded") == 1

    async def test_counts_go_on(self, world):
        await world.infer()
        before = world.metric("batcher_requests_total", outcome="ok", reason="")
        await world.manager.load("m", NONE)
        await world.infer()
        after = world.metric("batcher_requests_total", outcome="ok", reason="")
        assert (before, after) == (1, 2)
        assert world.metric("batcher_model_load_duration_seconds_count") == 2
        assert world.metric("batcher_model_warmup_duration_seconds_count") == 2
        assert world.metric("batcher_model_first_answer_duration_seconds_count") == 2

    async def test_one_that_hangs_is_given_up_and_the_old_one_serves_on(
        self, world, until, monkeypatch
    ):
        loop, ahead, let_go = asyncio.get_running_loop(), [0.0], threading.Event()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + ahead[0])
        load, begun = FakeExecutor.load, threading.Event()

        def hang(fake, context):
            begun.set()
            let_go.wait(60)
            return load(fake, context)

        monkeypatch.setattr(FakeExecutor, "load", hang)
        reload = asyncio.create_task(world.manager.load("m", NONE))
        await until(begun.is_set)
        ahead[0] += 1801
        with pytest.raises(ModelUnavailable, match=r"given up after 30m \(load_timeout\)"):
            await reload
        assert world.state()[0] == "ready"
        assert (await world.infer()).sum() == 4
        let_go.set()
        await until(lambda: world.fakes[1].calls and world.close_calls() == [False, True])

    async def test_a_failed_one_keeps_the_old_one_and_says_why(self, world):
        world.options = {"load_error": ModelLoadError("m: broken weights")}
        with pytest.raises(ModelUnavailable, match="broken weights"):
            await world.manager.load("m", NONE)
        assert world.state() == ("ready", "reload failed: m: broken weights")
        assert (await world.infer()).sum() == 4
        assert world.observed() == (["m/1"], ["m/1#0"])
        assert world.metric(RELOADS, result="failed") == 1
        assert world.metric("batcher_model_generation") == 1
        assert world.health.report().ready
        world.options = {}
        await world.manager.load("m", NONE)
        assert world.state() == ("ready", "")
        assert world.metric("batcher_model_generation") == 3

    async def test_other_inputs_are_validated_by_the_new_one(self, world):
        hang = world.fakes[0].hang_next()
        accepted = [world.begin() for _ in range(2)]
        await asyncio.to_thread(hang.wait_entered)
        world.options = {"columns": 3}
        await world.manager.load("m", NONE)
        assert (await world.infer(columns=3)).shape == (1, 3)
        hang.release()
        assert [(await each).shape for each in accepted] == [(1, 2), (1, 2)]

    async def test_the_index_says_what_is_going_on(self, world, until):
        world.options = {"load_error": BackendUnavailable("m: not up yet")}
        loading = asyncio.create_task(world.manager.load("m", NONE))
        await until(lambda: "not up yet" in world.state()[1])
        said = "generation 2 is being loaded: m: not up yet; trying again"
        assert world.state() == ("ready", said)
        assert (await world.infer()).sum() == 4
        world.options = {}
        await loading
        assert world.state() == ("ready", "")

    async def test_a_third_generation_waits_until_the_first_has_drained(self, world, until):
        hang = world.fakes[0].hang_next()
        accepted = world.begin()
        await asyncio.to_thread(hang.wait_entered)
        await world.manager.load("m", NONE)
        third = asyncio.create_task(world.manager.load("m", NONE))
        await until(lambda: world.manager._models["m", "1"].loading_as is not None)
        assert len(world.fakes) == 2
        hang.release()
        await third
        assert await accepted is not None
        assert len(world.fakes) == 3

    async def test_an_executor_that_is_gone_fails_the_load_alone(self, world):
        changes = world.config([{"name": "m", "executor": "nowhere"}])
        world.manager.follow(changes)
        await asyncio.gather(*world.manager._tasks)
        assert world.state()[0] == "ready"
        assert "reload failed: no executor named 'nowhere'" in world.state()[1]
        assert (await world.infer()).sum() == 4


class TestUnload:
    async def test_it_ends_a_load_in_progress(self, world, until):
        world.options = {"load_error": BackendUnavailable("m: not up yet")}
        loads = [asyncio.create_task(world.manager.load("m", NONE)) for _ in range(2)]
        await until(lambda: len(world.fakes) > 2)
        await asyncio.gather(*(world.manager.unload("m") for _ in range(2)))
        for load in loads:
            with pytest.raises(ModelUnavailable, match="unloaded while it was loading"):
                await load
        assert world.state() == ("unloaded", "unloaded")
        assert world.observed() == ([], [])
        assert world.metric(RELOADS, result="cancelled") == 1
        world.options = {}
        await world.manager.load("m", NONE)
        assert (await world.infer()).sum() == 4

    async def test_a_caller_that_leaves_changes_nothing(self, world, until):
        hang = world.fakes[0].hang_next()
        accepted = world.begin()
        await asyncio.to_thread(hang.wait_entered)
        unload = asyncio.create_task(world.manager.unload("m"))
        await until(lambda: world.state() == ("unloaded", "unloading"))
        unload.cancel()
        hang.release()
        assert (await accepted).sum() == 4
        await until(lambda: world.state() == ("unloaded", "unloaded"))

    async def test_what_was_unloaded_and_fails_does_not_make_the_server_unready(self, world):
        await world.manager.unload("m")
        world.options = {"load_error": ModelLoadError("m: broken")}
        with pytest.raises(ModelUnavailable, match="broken"):
            await world.manager.load("m", NONE)
        assert world.state() == ("failed", "m: broken")
        assert world.health.report().ready
        world.options = {}
        await world.manager.load("m", NONE)
        world.registry.find("m").enter("unready", "its instance is gone")
        assert not world.health.report().ready


class TestSettings:
    async def test_what_is_tuned_during_a_load_holds_after_it(self, world, until):
        world.options = {"load_error": BackendUnavailable("m: not up yet")}
        load = asyncio.create_task(world.manager.load("m", NONE))
        await until(lambda: len(world.fakes) > 1)
        (config,) = world.manager.of_file()
        queue = config.queue.model_copy(update={"max_rows": 7})
        tuned = config.model_copy(update={"queue": queue})
        world.registry.find("m").configure(tuned.scheduler_settings())
        world.manager.configured(tuned)
        world.options = {}
        await load
        assert world.registry.find("m").settings.queue.max_rows == 7
        assert world.manager.of_file() == [tuned]
        await world.manager.load("m", NONE)
        assert world.registry.find("m").settings.queue.max_rows == 7

    async def test_a_file_that_has_other_settings_wins(self, world, until):
        world.options = {"load_error": BackendUnavailable("m: not up yet")}
        model = {"name": "m", "instances": 2, "queue": {"max_rows": 5}}
        world.manager.follow(world.config([model]))
        await until(lambda: len(world.fakes) > 1)
        (config,) = world.manager.of_file()
        assert config.instances == 1
        queue = config.queue.model_copy(update={"max_rows": 7})
        world.manager.configured(config.model_copy(update={"queue": queue}))
        world.options = {}
        await asyncio.gather(*world.manager._tasks)
        assert world.registry.find("m").settings.queue.max_rows == 5

    async def test_the_limit_of_a_device_follows_what_is_on_it(self, make_world):
        world = await make_world({"name": "m", "device": "gpu0"}, devices={}).start()
        limits = world.scheduler.contents.fleet.device_limits
        assert limits == {"gpu0": 1}
        world.manager.follow(world.config([{"name": "m", "device": "gpu0", "instances": 3}]))
        await asyncio.gather(*world.manager._tasks)
        assert limits == {"gpu0": 3}
        world.manager.follow(world.config([{"name": "m", "device": "gpu1"}]))
        await asyncio.gather(*world.manager._tasks)
        assert limits["gpu1"] == 1
        world.sections = {"devices": {"gpu1": {"max_in_flight": 2}}}
        world.manager.follow(world.config([{"name": "m", "device": "gpu1"}]))
        assert limits["gpu1"] == 2


class TestSources:
    async def test_models_come_and_go(self, world, until):
        changes = await world.serve({"name": "n"}, {"name": "n", "version": "2"})
        assert changes == ["n/1 loaded", "n/2 loaded"]
        assert (await world.infer("n")).sum() == 4
        assert world.registry.find("n").version == "2"
        assert [str(h.required) for h in world.health.report().models] == ["True", "False", "False"]
        assert world.metric("batcher_model_generation", "n") == 1
        changes = await world.serve({"name": "n", "version": "2"})
        assert changes == ["n/2 unchanged", "n/1 removed"]
        assert world.metric("batcher_model_generation", "n") is None
        assert world.registry.versions("n") == ["2"]
        assert await world.serve() == ["n/2 removed"]
        assert [h.name for h in world.health.report().models] == ["m"]
        for sample in (s for f in world.prometheus.collect() for s in f.samples):
            assert sample.labels.get("model") != "n"

    async def test_unversioned_requests_go_to_the_newest_that_is_ready(self, world):
        world.options = {"load_error": ModelLoadError("n: broken")}
        assert await world.serve({"name": "n", "version": "3"}) == ["n/3 failed"]
        world.options = {}
        models = [{"name": "n", "version": v} for v in ("1", "3")]
        assert await world.serve(*models) == ["n/1 loaded", "n/3 failed"]
        assert world.registry.find("n").version == "1"
        assert world.health.report().ready
        assert world.state("n", "3") == ("failed", "n: broken")

    async def test_only_what_needs_it_is_loaded_again(self, world):
        await world.serve({"name": "n"}, contents="a")
        n = world.registry.find("n")
        assert await world.serve({"name": "n", "queue": {"max_rows": 3}}, contents="a") == [
            "n/1 configured"
        ]
        assert world.registry.find("n") is n
        assert n.settings.queue.max_rows == 3
        tuned = {"name": "n", "queue": {"max_rows": 3}}
        assert await world.serve(tuned, contents="b") == ["n/1 reloaded"]
        assert world.registry.find("n") is not n
        larger = tuned | {"batching": {"max_batch_size": 64}}
        assert await world.serve(larger, contents="b") == ["n/1 reloaded"]
        smaller = tuned | {"batching": {"max_batch_size": 16}}
        assert await world.serve(smaller, contents="b") == ["n/1 configured"]
        assert await world.serve(larger, contents="b") == ["n/1 configured"]
        none = tuned | {"batching": {"max_batch_size": 0}}
        assert await world.serve(none, contents="b") == ["n/1 reloaded"]

    async def test_a_model_belongs_to_one_source(self, world):
        assert await world.serve({"name": "m"}) == ["m/1 failed"]
        assert world.state() == ("ready", "")
        (change,) = await world.manager.serve(Source.REPOSITORY, world.wanted({"name": "m"}))
        assert change.reason == "the model is served already, as the configuration file says"

    async def test_what_comes_back_while_it_drains_is_loaded_again(self, world, until):
        await world.serve({"name": "n"})
        hang = world.fakes[-1].hang_next()
        accepted = world.begin("n")
        await asyncio.to_thread(hang.wait_entered)
        removal = asyncio.create_task(world.serve())
        await until(lambda: world.manager._models["n", "1"].removed)
        back = asyncio.create_task(world.serve({"name": "n"}))
        await until(lambda: not world.manager._models["n", "1"].removed)
        assert not back.done()
        hang.release()
        assert (await accepted).sum() == 4
        await removal
        assert await back == ["n/1 loaded"]
        assert (await world.infer("n")).sum() == 4
        assert world.metric("batcher_requests_total", "n", outcome="ok", reason="") == 2

    async def test_one_that_goes_and_comes_at_once_stays(self, world):
        await world.serve({"name": "n"})
        gone = asyncio.create_task(world.serve())
        back = asyncio.create_task(world.serve({"name": "n"}))
        await asyncio.gather(gone, back)
        assert (await world.infer("n")).sum() == 4

    async def test_one_that_is_removed_twice_leaves_alone_what_has_its_name_by_then(
        self, world, until
    ):
        await world.serve({"name": "n"})
        hang = world.fakes[-1].hang_next()
        accepted = world.begin("n")
        await asyncio.to_thread(hang.wait_entered)
        old = world.manager._models["n", "1"]
        serve, wanted = world.manager.serve, world.wanted({"name": "n"})
        changes = []
        for each in ([], wanted, []):
            changes.append(asyncio.create_task(serve(Source.REPOSITORY, each)))
            await asyncio.sleep(0)
        assert old.removed
        made = []

        def make_another(name, version, *, remove=world.telemetry.remove):
            remove(name, version)
            # As soon as nothing is left of the first one, and before its second removal goes on.
            asyncio.get_running_loop().call_soon(
                lambda: made.extend(world.manager._begin(Source.REPOSITORY, wanted, again=False))
            )
            world.telemetry.remove = remove

        world.telemetry.remove = make_another
        hang.release()
        await accepted
        await asyncio.gather(*changes)
        assert (await made[0]).result == "loaded"
        assert world.manager._models["n", "1"] is not old
        assert (await world.infer("n")).sum() == 4
        assert world.metric("batcher_model_generation", "n") == 1

    async def test_a_newer_wish_ends_the_load_of_an_older_one(self, world, until):
        world.options = {"load_error": BackendUnavailable("n: not up yet")}
        old = asyncio.create_task(world.serve({"name": "n"}))
        await until(lambda: len(world.fakes) > 2)
        world.options = {}
        new = asyncio.create_task(world.serve({"name": "n", "instances": 2}))
        assert await old == ["n/1 failed"]
        assert await new == ["n/1 loaded"]
        assert len([i for i in world.observed()[1] if i.startswith("n/")]) == 2

    async def test_what_an_admin_call_unloaded_stays_so_when_the_file_changes(self, world):
        await world.manager.unload("m")
        world.manager.follow(world.config([{"name": "m", "instances": 2}]))
        await asyncio.gather(*world.manager._tasks)
        assert world.state() == ("unloaded", "unloaded")
        await world.manager.load("m", NONE)
        assert len(world.observed()[1]) == 2

    async def test_settings_of_what_is_unloaded_need_not_fit_what_it_was(self, world):
        await world.manager.unload("m")
        padded = {"name": "m", "padding": [{"input": "Z", "axis": 1, "buckets": [4]}]}
        world.manager.follow(world.config([padded, {"name": "n"}]))
        await asyncio.gather(*world.manager._tasks)
        assert world.state("n") == ("ready", "")
        with pytest.raises(ModelUnavailable, match="Z"):
            await world.manager.load("m", NONE)

    async def test_one_broken_model_does_not_stop_the_others(self, world):
        world.manager.follow(
            world.config(
                [{"name": "m", "instances": 2}, {"name": "x", "executor": "nowhere"}, {"name": "y"}]
            )
        )
        await asyncio.gather(*world.manager._tasks)
        assert world.state("m") == world.state("y") == ("ready", "")
        assert world.state("x")[0] == "failed"
        assert "no executor named 'nowhere'" in world.state("x")[1]
        assert world.health.report().ready


async def test_a_shutdown_ends_loads_and_drains(make_world, until):
    world = await make_world({"name": "m"}, {"name": "n"}).start()
    hang = world.fakes[0].hang_next()
    accepted = world.begin("m")
    await asyncio.to_thread(hang.wait_entered)
    await world.manager.load("m", NONE)
    world.options = {"load_error": BackendUnavailable("not up yet")}
    load = asyncio.create_task(world.manager.load("n", NONE))
    unload = asyncio.create_task(world.manager.unload("m"))
    await until(lambda: len(world.fakes) > 3)
    await world.manager.close()
    hang.release()
    ends = await asyncio.gather(accepted, load, unload, return_exceptions=True)
    assert "unloaded" in str(ends[0]) or "went down" in str(ends[0])
    assert "shut down while the model was loading" in str(ends[1])
    assert world.observed() == ([], [])
