"""When an instance is unhealthy, and how it becomes healthy again."""

import asyncio

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import FailureCause
from batcher.executor import BatchResult
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.instances.health_checks import HealthCheckPlan, HealthChecks

SOON = HealthCheckPlan(interval_ns=MILLISECOND, failure_threshold=3)
NEVER = HealthCheckPlan(interval_ns=10**15, failure_threshold=3)


def failed(cause=FailureCause.UNKNOWN, why="no luck"):
    return ExecutedBatch(0, 0, 0, None, cause, why)


def succeeded():
    return ExecutedBatch(0, 0, 0, BatchResult({}))


class World:
    """What `healthy` and canaries answer, and the reasons that were set."""

    def __init__(self):
        self.healthy_returns = self.test_batch = ""
        self.canaries = self.asked = self.polls = 0
        self.busy = False
        self.reasons = []
        self.restarts = []
        self.unanswered = False
        self.changed_event = asyncio.Event()

    async def ask(self):
        self.asked += 1
        if isinstance(self.healthy_returns, Exception):
            raise self.healthy_returns
        return self.healthy_returns

    async def run_test_batch(self):
        self.canaries += 1
        return self.test_batch

    def make(self, plan=SOON, *, ask=False, test=False, only_asked=False):
        self.checks = HealthChecks(
            "m#0",
            plan,
            ask=self.ask if ask else None,
            test=self.run_test_batch if test else None,
            idle=self._idle,
            changed=self._changed,
            only_asked=only_asked,
            answered=lambda: not self.unanswered,
            restart=self._restart,
        )
        self.checks.start()
        return self.checks

    def _idle(self):
        self.polls += 1
        return not self.busy

    async def _restart(self, why):
        self.restarts.append(why)

    def _changed(self):
        self.reasons.append(self.checks.why)
        self.changed_event.set()

    async def until_changed(self):
        async with asyncio.timeout(10):
            await self.changed_event.wait()
        self.changed_event.clear()
        return self.reasons[-1]

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


async def test_without_healthy_there_are_no_regular_checks(world):
    checks = world.make()
    checks.batch_ended(succeeded())
    assert checks.why == ""
    assert checks._task is None


async def test_healthy_decides_until_it_succeeds_again(world):
    world.make(ask=True)
    world.healthy_returns = "the backend is down"
    assert await world.until_changed() == "the backend is down"
    world.healthy_returns = ""
    assert await world.until_changed() == ""


async def test_a_successful_batch_overrides_healthy(world):
    checks = world.make(ask=True)
    world.healthy_returns = "the backend is down"
    await world.until_changed()
    world.healthy_returns = ""
    checks.batch_ended(succeeded())
    assert checks.why == ""


async def test_healthy_is_not_called_while_a_batch_runs(world):
    world.busy = True
    world.make(ask=True)
    await world.until(lambda: world.polls > 2)
    assert world.asked == 0
    world.busy = False
    await world.until(lambda: world.asked)


async def test_a_check_that_raises_does_not_end_the_checks(world, caplog):
    world.make(ask=True)
    world.healthy_returns = ValueError("ours")
    await world.until(lambda: "its health check failed" in caplog.text)
    world.healthy_returns = "down"
    assert await world.until_changed() == "down"


async def test_a_test_batch_decides_when_many_batches_failed(world):
    checks = world.make(NEVER, test=True)
    for _ in range(3):
        checks.batch_ended(failed())
    await world.until(lambda: world.canaries)
    await world.until(lambda: checks._task is None)
    assert checks.why == ""
    assert world.reasons == []

    # Three more before another one runs, and this time it fails as well.
    world.test_batch = "dead"
    for _ in range(2):
        checks.batch_ended(failed())
    assert checks._task is None
    checks.batch_ended(failed())
    assert await world.until_changed() == (
        "its last 3 batches failed, the last one with: no luck; a test batch failed too: dead"
    )
    assert world.canaries == 2


async def test_canaries_go_on_until_one_succeeds(world):
    checks = world.make(test=True)
    world.test_batch = "dead"
    for _ in range(3):
        checks.batch_ended(failed())
    await world.until_changed()
    await world.until(lambda: world.canaries > 3)
    world.test_batch = ""
    assert await world.until_changed() == ""
    await world.until(lambda: checks._task is None)


async def test_a_success_resets_the_count_of_failures(world):
    checks = world.make(NEVER)
    for end in (failed(), failed(), succeeded(), failed(), failed()):
        checks.batch_ended(end)
    assert checks._task is None
    checks.batch_ended(failed())
    assert await world.until_changed() == "its last 3 batches failed, the last one with: no luck"
    checks.batch_ended(succeeded())
    assert checks.why == ""


async def test_failures_caused_by_the_input_do_not_count(world):
    checks = world.make(NEVER)
    for _ in range(10):
        checks.batch_ended(failed(FailureCause.INPUT))
    assert checks._task is None
    assert checks.why == ""


async def test_without_a_test_batch_it_is_on_trial_after_an_interval(world):
    checks = world.make()
    for _ in range(3):
        checks.batch_ended(failed())
    assert await world.until_changed() == "its last 3 batches failed, the last one with: no luck"
    assert await world.until_changed() == ""
    checks.batch_ended(failed(why="again"))
    assert await world.until_changed() == "its last 3 batches failed, the last one with: again"


async def test_without_a_test_batch_healthy_decides(world):
    checks = world.make(NEVER, ask=True)
    world.healthy_returns = "the backend is down"
    for _ in range(3):
        checks.batch_ended(failed())
    assert await world.until_changed() == "the backend is down"


async def test_failed_batches_can_be_ignored(world):
    checks = world.make(HealthCheckPlan(interval_ns=MILLISECOND, failure_threshold=None))
    for _ in range(100):
        checks.batch_ended(failed())
    assert checks._task is None


RESTARTS = HealthCheckPlan(interval_ns=MILLISECOND, failure_threshold=2, restart_after=3)


async def test_it_is_restarted_after_checks_in_a_row(world):
    checks = world.make(RESTARTS, ask=True)
    world.healthy_returns = "lost"
    await world.until(lambda: world.restarts)
    assert world.asked == 3
    assert world.restarts == ["it was unhealthy at 3 checks in a row: lost"]
    # Where it is not replaced, it is asked on.
    await world.until(lambda: len(world.restarts) > 1)
    world.healthy_returns = ""
    await world.until(lambda: not checks.why)
    assert checks._unhealthy == 0


@pytest.mark.parametrize("by", ["a batch", "healthy"])
async def test_a_success_between_the_checks_starts_the_count_anew(world, by):
    checks = world.make(RESTARTS, ask=True)
    for _ in range(4):
        asked = world.asked
        world.healthy_returns = "lost"
        await world.until(lambda asked=asked: world.asked >= asked + 2)
        if by == "a batch":
            checks.batch_ended(succeeded())
        else:
            world.healthy_returns = ""
            await world.until(lambda: not checks.why)
    assert world.restarts == []


async def test_a_check_that_was_not_answered_does_not_count(world):
    world.make(RESTARTS, ask=True)
    world.healthy_returns, world.unanswered = "no answer", True
    await world.until(lambda: world.asked > 6)
    assert world.restarts == []


async def test_failures_on_trial_count_on(world):
    """Nothing but batches tells that a child is broken whose executor has no `healthy`, without warm-up."""
    checks = world.make(RESTARTS, ask=True, only_asked=True)
    for _ in range(3):
        assert world.restarts == []
        while not checks.why:
            checks.batch_ended(failed())
            await asyncio.sleep(0)
        if not world.restarts:
            await world.until(lambda: not checks.why or world.restarts)
    await world.until(lambda: world.restarts)


async def test_without_restart_after_it_is_left_alone(world):
    world.make(SOON, ask=True)
    world.healthy_returns = "lost"
    await world.until(lambda: world.asked > 6)
    assert world.restarts == []
