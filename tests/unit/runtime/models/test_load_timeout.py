"""A load or a warm-up that does not end is given up after `load_timeout`, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from batcher.clock import MILLISECOND, SECOND, monotonic_ns
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import BatchResult, LoadContext
from batcher.executor.classes import ExecutorPath
from batcher.executors.isolated import processes
from batcher.runtime.health import InstanceState, ModelState
from batcher.runtime.instances.load_attempt import LoadAttempt
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.profiling import measure
from batcher.runtime.instances.replacement import RestartPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.testing import FakeExecutor
from batcher.testing.fakes import Hang

CHILDREN = Path(__file__).parents[3] / "children"
LIMIT = 1800 * SECOND
QUICK = RestartPlan(MILLISECOND, MILLISECOND, None)
LOADING = r"model 'm': the load was given up after 30m \(load_timeout\), while it was loading"
WARMING = r"given up after 30m \(load_timeout\), while it was warming up with a batch of {} rows"


async def until(condition):
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


@pytest.fixture
async def skip(monkeypatch):
    """A function that has the event loop's clock jump ahead by so many seconds, by default past `LIMIT`."""
    loop, ahead = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + ahead[0])

    def jump(seconds=LIMIT / SECOND + 1):
        ahead[0] += seconds

    return jump


async def given_up(loading, skip, condition, match):
    """Let the time pass when the load has come to where it hangs; returns its error."""
    loading = asyncio.ensure_future(loading)
    await until(condition)
    assert not loading.done()
    skip()
    await until(loading.done)
    with pytest.raises(ModelLoadError, match=match) as raised:
        await loading
    return raised.value


def state_of(pid):
    """As the kernel names it: T for one that is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(child for task in tasks for child in (task / "children").read_text().split())


def abandoned(middle):
    return middle.model._process.abandoned.count("m", "1")


class HangsInLoad(FakeExecutor):
    """A blocking executor whose `load` returns when it is told to."""

    def __init__(self):
        super().__init__()
        self.begun, self.let_go = threading.Event(), threading.Event()

    def load(self, context):
        self.begun.set()
        if not self.let_go.wait(60):
            raise TimeoutError("the test never let it go")
        return super().load(context)


class Remote:
    """Coroutines: `load` and batches of `hanging` rows or more do not end before they are cancelled."""

    capabilities = FakeExecutor.capabilities

    def __init__(self, hanging=0, ignoring=0, error=None):
        self.hanging, self.ignoring, self.error = hanging, ignoring, error
        self.cancelled = 0
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()
        self.closed = False

    async def hang(self):
        self.begun.set()
        while not self.goes_on.is_set():
            try:
                await self.goes_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.error is not None:
                    raise self.error from None
                if self.cancelled > self.ignoring:
                    raise

    async def load(self, context):
        if not self.hanging:
            await self.hang()
        return FakeExecutor().load(context)

    async def execute(self, batch):
        if batch.rows >= self.hanging:
            await self.hang()
        return FakeExecutor().execute(batch)

    async def close(self):
        self.closed = True


class TestThread:
    async def test_a_load_fails_and_its_thread_counts_until_it_returns(self, make_middle, skip):
        middle = make_middle(load_timeout_ns=LIMIT)
        middle.make_executor = HangsInLoad
        error = await given_up(
            middle.model.load(),
            skip,
            lambda: middle.fakes and middle.fake.begun.is_set(),
            LOADING,
        )
        assert not isinstance(error, BackendUnavailable)
        assert middle.model.state is ModelState.FAILED
        assert "load_timeout" in middle.model.why
        assert abandoned(middle) == 1
        middle.fake.let_go.set()
        await until(lambda: not abandoned(middle))
        assert middle.fake.calls[-1].method == "close"
        assert middle.problems == []

    async def test_a_warm_up_batch_that_hangs_is_named(self, make_middle, skip):
        middle = make_middle(load_timeout_ns=LIMIT, warmup=WarmupPlan((1, 4), 16))
        hang, begun = Hang(), threading.Event()

        def answer(batch):
            if batch.rows == 4:
                begun.set()
                hang.block()
            return BatchResult({"Y": batch.inputs["X"]})

        middle.make_executor = lambda: FakeExecutor(answer=answer)
        await given_up(middle.model.load(), skip, begun.is_set, WARMING.format(4))
        assert abandoned(middle) == 1
        hang.release()
        await until(lambda: not abandoned(middle))
        assert middle.fake.calls[-1].method == "close"

    async def test_a_replacement_goes_on_with_its_pauses(self, make_middle, skip):
        middle = make_middle(load_timeout_ns=LIMIT, restart=QUICK, max_abandoned_threads=3)
        await middle.model.load()
        hang = middle.fake.hang_next()
        middle.make_executor = HangsInLoad
        lost = asyncio.create_task(middle.batcher.infer(middle.request()))
        await asyncio.to_thread(hang.wait_entered)
        skip()  # its `execute_timeout`
        for number in (2, 3, 4):
            await until(lambda n=number: len(middle.fakes) == n and middle.fake.begun.is_set())
            assert middle.model.health.instances[0].state is InstanceState.RESTARTING
            skip()
        await until(lambda: middle.model.health.instances[0].state is InstanceState.FAILED)
        # The batch that hung, and three loads: with more, none is tried.
        assert abandoned(middle) == 4
        assert len(middle.fakes) == 4
        hung = middle.fakes[1:]
        middle.make_executor = FakeExecutor
        hang.release()
        for fake in hung:
            fake.let_go.set()
        await until(lambda: middle.model.ready)
        assert abandoned(middle) == 0
        await asyncio.gather(lost, return_exceptions=True)
        assert middle.problems == []

    async def test_a_profile_is_bounded_too(self, skip):
        fake = HangsInLoad()
        context = LoadContext("m", "1", 0, "cpu", 8, {})
        plan = InstancePlan(
            *("m/1#0", "m/1", context, lambda: fake, 1, SECOND, WarmupPlan((1,), 16)),
            load_timeout_ns=LIMIT,
        )
        measuring = measure(plan, (1,), 1, monotonic_ns, lambda: None)
        await given_up(measuring, skip, fake.begun.is_set, LOADING)
        fake.let_go.set()
        await until(lambda: fake.calls and fake.calls[-1].method == "close")


@pytest.mark.slow
class TestChild:
    async def test_one_that_is_stopped_in_its_load_is_killed(self, make_middle, monkeypatch, skip):
        monkeypatch.syspath_prepend(str(CHILDREN))
        processes.warm()
        before = children_of(os.getpid())
        middle = make_middle(isolation="process", load_timeout_ns=LIMIT)
        middle.make_executor = lambda: ExecutorPath("odd_executors:Does")
        [instance] = middle.model._instances
        context = replace(instance.plan.context, options={"load": "stop"})
        instance.plan = replace(instance.plan, context=context)

        def stopped():
            started = set(children_of(os.getpid())) - set(before)
            return bool(started) and all(state_of(pid) == "T" for pid in started)

        await given_up(middle.model.load(), skip, stopped, LOADING)
        await until(lambda: children_of(os.getpid()) == before)
        assert abandoned(middle) == 0
        assert middle.problems == []


class TestCoroutine:
    @pytest.fixture
    async def load(self, make_middle, skip):
        """A function that loads such an executor, which hangs; it returns the `Middle`."""

        async def call(match, plan=(), **remote):
            middle = make_middle(load_timeout_ns=LIMIT, **dict(plan))
            middle.make_executor = lambda: Remote(**remote)
            begun = lambda: middle.fakes and middle.fake.begun.is_set()  # noqa: E731 - short
            await given_up(middle.model.load(), skip, begun, match)
            return middle

        return call

    async def test_a_load_is_cancelled(self, load):
        middle = await load(LOADING)
        await until(lambda: middle.fake.cancelled == 1)
        assert not middle.fake.closed
        assert abandoned(middle) == 0
        assert middle.problems == []

    async def test_one_that_ignores_that_is_closed_when_it_returns(self, load):
        middle = await load(LOADING, ignoring=1000)
        assert not middle.fake.closed
        middle.fake.goes_on.set()
        await until(lambda: middle.fake.closed)
        assert middle.problems == []

    async def test_what_it_raises_then_is_no_reason_to_try_again(self, load):
        error = BackendUnavailable("gone")
        middle = await load(LOADING, {"load_retry_ns": 10**6 * SECOND}, error=error)
        assert len(middle.fakes) == 1

    async def test_a_warm_up_batch_is_cancelled(self, load):
        plan = {"warmup": WarmupPlan((1, 2), 16)}
        middle = await load(WARMING.format(2), plan, hanging=2)
        await until(lambda: middle.fake.closed)
        assert middle.fake.cancelled == 1

    async def test_without_a_bound_it_takes_as_long_as_it_does(self, make_middle, skip):
        middle = make_middle()
        middle.make_executor = Remote
        loading = asyncio.create_task(middle.model.load())
        await until(lambda: middle.fakes and middle.fake.begun.is_set())
        skip(10**6)
        await until(lambda: True)
        assert not loading.done()
        middle.fake.goes_on.set()
        await loading
        assert middle.model.ready


class TestAttempt:
    async def test_waiting_for_a_turn_does_not_count(self, skip):
        attempt, lock = LoadAttempt("m", LIMIT), asyncio.Lock()
        steps, gone_on = [], asyncio.Event()

        async def load():
            async with attempt.bounded():
                skip(900)
                async with attempt.uncounted(lock):
                    steps.append("its turn")
                    skip(300)
                    await until(lambda: True)
                gone_on.set()
                await asyncio.Event().wait()

        await lock.acquire()
        loading = asyncio.create_task(load())
        await asyncio.sleep(0)
        skip(36_000)
        await asyncio.sleep(0.001)
        assert steps == []
        lock.release()
        await gone_on.wait()
        assert steps == ["its turn"]
        skip(500)
        await asyncio.sleep(0.001)
        assert not loading.done()
        skip(101)
        with pytest.raises(ModelLoadError, match=LOADING):
            await loading

    async def test_who_cancels_it_gets_no_other_error(self):
        attempt = LoadAttempt("m", LIMIT)

        async def load():
            async with attempt.bounded(), attempt.uncounted(asyncio.Lock()):
                await asyncio.Event().wait()

        loading = asyncio.create_task(load())
        await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading

    async def test_its_own_errors_stay_what_they_are(self):
        attempt = LoadAttempt("m", LIMIT)
        with pytest.raises(BackendUnavailable, match="not up"):
            async with attempt.bounded():
                raise BackendUnavailable("not up")
