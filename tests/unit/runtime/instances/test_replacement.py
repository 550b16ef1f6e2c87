"""When replacements of a lost instance are loaded, and when no more are."""

import asyncio
import logging

import pytest

from batcher.clock import SECOND
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.runtime.instances import replacement
from batcher.runtime.instances.replacement import Replacement, RestartPlan, StaysDownError


class World:
    """A replacement whose pauses pass at once; `pauses` are those that it made."""

    def __init__(self, monkeypatch, plan, outcomes=(), drawn=1.0):
        self.pauses = []
        self.loaded = []
        self.failures = []
        self.outcomes = list(outcomes)
        self.hold = ""
        self.now_s = 0.0
        self.ended = asyncio.Event()
        self.turn = asyncio.sleep
        monkeypatch.setattr(replacement.asyncio, "sleep", self.sleep)
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now_s)
        self.replacement = Replacement(
            "m/1#0",
            loop,
            plan,
            self.load,
            self.came_up,
            self.failed,
            held=lambda: self.hold,
            draw=lambda: drawn,
        )

    async def sleep(self, delay_s):
        self.pauses.append(delay_s)
        self.now_s += delay_s
        await self.turn(0)

    async def load(self):
        outcome = self.outcomes.pop(0) if self.outcomes else "made"
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def came_up(self, made):
        self.loaded.append(made)
        self.ended.set()

    def failed(self, error):
        self.failures.append(error)
        if isinstance(error, StaysDownError):
            self.ended.set()

    async def lose(self, served_s=0.0):
        self.ended.clear()
        self.replacement.begin(served_s)
        await self.ended.wait()


PLAN = RestartPlan()


@pytest.fixture
def make(monkeypatch):
    return lambda plan=PLAN, *outcomes, drawn=1.0: World(monkeypatch, plan, outcomes, drawn)


async def test_the_first_is_loaded_at_once_and_pauses_double_after_that(make):
    world = make(RestartPlan(SECOND, 5 * SECOND, None))
    for _ in range(6):
        await world.lose(served_s=1.0)
    assert world.pauses == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    await world.lose(served_s=5.0)
    assert world.pauses[-1] == 0.0


async def test_half_of_a_pause_is_drawn(make):
    world = make(RestartPlan(SECOND, 8 * SECOND, None), drawn=0.0)
    for _ in range(3):
        await world.lose()
    assert world.pauses == [0.0, 0.5, 1.0]


async def test_a_load_that_fails_is_repeated_after_longer_pauses(make):
    errors = [ModelLoadError("no"), ModelLoadError("no"), ModelLoadError("no")]
    world = make(RestartPlan(SECOND, 8 * SECOND, None), *errors)
    await world.lose()
    assert world.pauses == [0.0, 1.0, 2.0, 4.0]
    assert world.failures == errors
    assert world.loaded == ["made"]


async def test_after_the_limit_within_the_window_it_stays_down_and_says_so_once(make, caplog):
    world = make(RestartPlan(SECOND, 8 * SECOND, 3, 60 * SECOND))
    for _ in range(3):
        await world.lose()
    assert not world.replacement.stays_down
    with caplog.at_level(logging.ERROR):
        await world.lose()
    assert world.replacement.stays_down
    assert len(world.loaded) == 3
    [why] = world.failures
    assert "3 times again within 60 s (restart.limit)" in str(why)
    assert len(caplog.records) == 1


async def test_loads_that_are_older_than_the_window_do_not_count(make):
    world = make(RestartPlan(SECOND, 8 * SECOND, 3, 60 * SECOND))
    for _ in range(3):
        await world.lose()
    world.now_s += 60.0
    await world.lose()
    assert len(world.loaded) == 4


async def test_loads_that_fail_count_and_a_backend_that_is_not_up_does_not(make):
    away = [BackendUnavailable("not up")] * 5
    world = make(RestartPlan(SECOND, 8 * SECOND, 3, 600 * SECOND), *away, ModelLoadError("no"))
    await world.lose()
    assert world.loaded == ["made"]
    world.outcomes = [ModelLoadError("no")]
    await world.lose()
    assert world.replacement.stays_down


async def test_while_something_holds_it_none_is_loaded(make):
    world = make(RestartPlan(SECOND, 2 * SECOND, 1, 600 * SECOND))
    world.hold = "4 threads hang"
    world.replacement.begin(0.0)
    await world.ended.wait()
    assert world.replacement.stays_down
    assert str(world.failures[-1]) == "4 threads hang"
    world.ended.clear()
    world.hold = ""
    await world.ended.wait()
    assert world.loaded == ["made"]
    assert not world.replacement.stays_down


async def test_stopping_ends_a_pause(make):
    world = make()
    world.hold = "for ever"
    world.replacement.begin(0.0)
    await world.ended.wait()
    await world.replacement.stop(1.0)
    assert world.loaded == []
