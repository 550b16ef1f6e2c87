"""How the health of the neighbor is followed while the executor is loaded."""

import asyncio
import contextlib

import numpy as np
import pytest

X = np.arange(12, dtype=np.float32).reshape(3, 4)
FAST = {"health_interval": "2ms", "health_timeout": "5s"}


class Watching:
    """A running `watch`, and what it reports."""

    def __init__(self, executor):
        self.reports = asyncio.Queue()
        self.task = asyncio.ensure_future(executor.watch(self.reports.put_nowait))

    async def until(self, condition):
        """The first report from now on that fulfills a condition."""
        async with asyncio.timeout(20):
            while True:
                report = await self.reports.get()
                if condition(report):
                    return report


@pytest.fixture
async def watch():
    begun = []

    def begin(executor):
        begun.append(Watching(executor))
        return begun[-1]

    yield begin
    for each in begun:
        each.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await each.task


async def test_a_model_that_is_not_ready_is_unhealthy_until_it_is(neighbor, load, watch):
    neighbor.start()
    executor, _ = await load(**FAST)
    watching = watch(executor)
    await watching.until(lambda why: not why)
    neighbor.ready = False
    assert "says that model 'm' is not ready" in await watching.until(bool)
    neighbor.ready = True
    await watching.until(lambda why: not why)


async def test_a_lost_neighbor_is_found_again(neighbor, load, watch, kit):
    neighbor.start()
    executor, _ = await load(**FAST)
    watching = watch(executor)
    await watching.until(lambda why: not why)
    await kit.soon(neighbor.stop)
    assert "UNAVAILABLE" in await watching.until(bool)
    neighbor.start()
    await watching.until(lambda why: not why)
    await executor.execute(kit.batch_of(X))


async def test_a_neighbor_that_does_not_answer_is_unhealthy(neighbor, load, watch):
    neighbor.start()
    executor, _ = await load(health_interval="2ms", health_timeout="10ms")
    frozen, answer = asyncio.Event(), neighbor._ModelReady
    loop = asyncio.get_running_loop()

    def slow(request, context):
        asyncio.run_coroutine_threadsafe(frozen.wait(), loop).result(20)
        return answer(request, context)

    neighbor._ModelReady = slow
    watching = watch(executor)
    assert "DEADLINE_EXCEEDED" in await watching.until(bool)
    frozen.set()
    neighbor._ModelReady = answer


async def test_a_neighbor_that_answers_batches_is_there(neighbor, load, watch, kit):
    """However late it says that it is ready."""
    neighbor.start()
    executor, _ = await load(health_interval="2ms", health_timeout="100ms")
    held, answer = asyncio.Event(), neighbor._ModelReady
    loop = asyncio.get_running_loop()

    def slow(request, context):
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result(20)
        return answer(request, context)

    neighbor._ModelReady = slow
    watching = watch(executor)
    healthy = asyncio.ensure_future(watching.until(lambda why: not why))
    while not healthy.done():
        await executor.execute(kit.batch_of(X))
    assert await healthy == ""
    held.set()
    neighbor._ModelReady = answer


async def test_another_model_after_a_restart_ends_the_watch(neighbor, load, watch, kit):
    neighbor.start()
    executor, _ = await load(**FAST)
    watching = watch(executor)
    await watching.until(lambda why: not why)
    await kit.soon(neighbor.stop)
    await watching.until(bool)
    neighbor.outputs = [("Y", "FP32", [-1, 8])]
    neighbor.start()
    async with asyncio.timeout(20):
        assert await watching.task is None
    assert "serves another model" in await watching.until(lambda why: "another" in why)


async def test_another_version_in_place_ends_the_watch(neighbor, load, watch):
    neighbor.start()
    executor, _ = await load(**FAST)
    watching = watch(executor)
    await watching.until(lambda why: not why)
    neighbor.versions = ["2"]
    async with asyncio.timeout(20):
        await watching.task
    while not watching.reports.empty():  # it serves on until it is loaded again
        assert not watching.reports.get_nowait()


async def test_an_answer_that_does_not_fit_has_the_model_asked_for(neighbor, load, watch, kit):
    neighbor.start()
    executor, _ = await load(**FAST)
    executor._watch._recheck = 10**9
    watching = watch(executor)
    await watching.until(lambda why: not why)
    neighbor.outputs = [("Z", "FP32", [-1, 4])]
    neighbor.infer = lambda request, call: kit.answer_of({"Z": X})
    with pytest.raises(Exception, match="'Z' that the model lacks"):
        await executor.execute(kit.batch_of(X))
    async with asyncio.timeout(20):
        await watching.task


async def test_a_token_that_was_renewed_is_sent(neighbor, load, watch, tmp_path):
    (tmp_path / "token").write_text("one")
    neighbor.start()
    executor, _ = await load(base_dir=tmp_path, metadata={"a": {"file": "token"}}, **FAST)
    watching = watch(executor)
    await watching.until(lambda why: not why)
    (tmp_path / "new").write_text("two!")
    (tmp_path / "new").replace(tmp_path / "token")
    async with asyncio.timeout(20):
        while neighbor.metadata[-1]["a"] != "two!":
            await watching.reports.get()


async def test_a_watch_that_is_cancelled_leaves_nothing_running(neighbor, load, watch):
    neighbor.start()
    executor, _ = await load(**FAST)
    before = asyncio.all_tasks()
    watching = watch(executor)
    await watching.until(lambda why: not why)
    watching.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching.task
    assert asyncio.all_tasks() <= before
