"""When an instance is not well, and how it becomes well again."""

import asyncio

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import FailureCause
from batcher.executor import BatchResult
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.instances.health_checks import HealthCheckPlan, HealthChecks

SOON = HealthCheckPlan(interval_ns=MILLISECOND, failed_batches=3)
NEVER = HealthCheckPlan(interval_ns=10**15, failed_batches=3)


def failed(cause=FailureCause.UNKNOWN, why="no luck"):
    return ExecutedBatch(0, 0, 0, None, cause, why)


def succeeded():
    return ExecutedBatch(0, 0, 0, BatchResult({}))


class World:
    """What an instance would answer, and what was said of it."""

    def __init__(self):
        self.word = self.canary = ""
        self.canaries = self.asked = self.looks = 0
        self.busy = False
        self.said = []
        self.told = asyncio.Event()

    async def ask(self):
        self.asked += 1
        if isinstance(self.word, Exception):
            raise self.word
        return self.word

    async def run_canary(self):
        self.canaries += 1
        return self.canary

    def make(self, plan=SOON, *, ask=False, canary=False):
        self.checks = HealthChecks(
            "m#0",
            plan,
            ask=self.ask if ask else None,
            canary=self.run_canary if canary else None,
            idle=self._idle,
            changed=self._changed,
        )
        self.checks.start()
        return self.checks

    def _idle(self):
        self.looks += 1
        return not self.busy

    def _changed(self):
        self.said.append(self.checks.why)
        self.told.set()

    async def until_told(self):
        async with asyncio.timeout(10):
            await self.told.wait()
        self.told.clear()
        return self.said[-1]

    async def until(self, condition):
        async with asyncio.timeout(10):
            while True:
                if condition():
                    return
                await asyncio.sleep(0)


@pytest.fixture
async def world():
    world = World()
    yield world
    world.checks.stop()


async def test_an_executor_that_says_nothing_is_not_looked_after(world):
    checks = world.make()
    checks.batch_ended(succeeded())
    assert checks.why == ""
    assert checks._task is None


async def test_its_own_word_counts_until_it_takes_it_back(world):
    world.make(ask=True)
    world.word = "the backend is down"
    assert await world.until_told() == "the backend is down"
    world.word = ""
    assert await world.until_told() == ""


async def test_a_success_is_stronger_than_its_word(world):
    checks = world.make(ask=True)
    world.word = "the backend is down"
    await world.until_told()
    world.word = ""
    checks.batch_ended(succeeded())
    assert checks.why == ""


async def test_it_is_not_asked_while_a_batch_runs(world):
    world.busy = True
    world.make(ask=True)
    await world.until(lambda: world.looks > 2)
    assert world.asked == 0
    world.busy = False
    await world.until(lambda: world.asked)


async def test_a_question_that_raises_does_not_end_the_looking(world, caplog):
    world.make(ask=True)
    world.word = ValueError("ours")
    await world.until(lambda: "could not be looked at" in caplog.text)
    world.word = "down"
    assert await world.until_told() == "down"


async def test_the_canary_decides_when_many_batches_failed(world):
    checks = world.make(NEVER, canary=True)
    for _ in range(3):
        checks.batch_ended(failed())
    await world.until(lambda: world.canaries)
    await world.until(lambda: checks._task is None)
    assert checks.why == ""
    assert world.said == []

    # Three more before another one runs, and this time it fails as well.
    world.canary = "dead"
    for _ in range(2):
        checks.batch_ended(failed())
    assert checks._task is None
    checks.batch_ended(failed())
    assert await world.until_told() == (
        "its last 3 batches failed: no luck; so did a canary batch: dead"
    )
    assert world.canaries == 2


async def test_canaries_go_on_until_one_succeeds(world):
    checks = world.make(canary=True)
    world.canary = "dead"
    for _ in range(3):
        checks.batch_ended(failed())
    await world.until_told()
    await world.until(lambda: world.canaries > 3)
    world.canary = ""
    assert await world.until_told() == ""
    await world.until(lambda: checks._task is None)


async def test_a_success_in_between_starts_the_count_anew(world):
    checks = world.make(NEVER)
    for end in (failed(), failed(), succeeded(), failed(), failed()):
        checks.batch_ended(end)
    assert checks._task is None
    checks.batch_ended(failed())
    assert await world.until_told() == "its last 3 batches failed: no luck"
    checks.batch_ended(succeeded())
    assert checks.why == ""


async def test_values_that_a_caller_sent_say_nothing(world):
    checks = world.make(NEVER)
    for _ in range(10):
        checks.batch_ended(failed(FailureCause.INPUT))
    assert checks._task is None
    assert checks.why == ""


async def test_without_a_canary_it_is_on_trial_after_a_while(world):
    checks = world.make()
    for _ in range(3):
        checks.batch_ended(failed())
    assert await world.until_told() == "its last 3 batches failed: no luck"
    assert await world.until_told() == ""
    checks.batch_ended(failed(why="again"))
    assert await world.until_told() == "its last 3 batches failed: again"


async def test_without_a_canary_its_own_word_counts(world):
    checks = world.make(NEVER, ask=True)
    world.word = "the backend is down"
    for _ in range(3):
        checks.batch_ended(failed())
    assert await world.until_told() == "the backend is down"


async def test_batches_may_count_for_nothing(world):
    checks = world.make(HealthCheckPlan(interval_ns=MILLISECOND, failed_batches=None))
    for _ in range(100):
        checks.batch_ended(failed())
    assert checks._task is None
