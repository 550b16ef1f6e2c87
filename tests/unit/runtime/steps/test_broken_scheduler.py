"""A scheduler that raises: every request fails, then and later."""

from __future__ import annotations

import logging

import pytest

from batcher.core.events import ModelConfigured, RequestArrived
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.errors import (
    ChangeFailed,
    InternalError,
    RequestError,
)

MODEL = "m/1"
SETTINGS = ModelSettings(2, FixedWindow(0))


@pytest.mark.parametrize("name", ["handle", "next_wakeup_ns"])
@pytest.mark.parametrize("nth", range(1, 6))
@pytest.mark.parametrize("on_broken", [0, 1])
def test_a_scheduler_that_raises_ends_everything(world, faults, caplog, name, nth, on_broken):
    faults.raises |= {name: nth, "on_broken": on_broken}
    with caplog.at_level(logging.CRITICAL):
        world.play()
    assert world.broken == 1
    assert "Boom: boom" in world.runner.broken
    assert "until the process is restarted" in caplog.text
    failed = [end for end in world.outcomes().values() if isinstance(end, InternalError)]
    assert failed
    assert all("internal error of the scheduler: Boom: boom" in str(end) for end in failed)
    assert world.runner.unanswered == 0
    assert set(world.released.values()) <= {1}

    # It refuses everything from then on.
    world.submit("afterwards", 1)
    world.finish_all()
    end = world.outcomes()["afterwards"]
    assert isinstance(end, RequestError)
    with pytest.raises(ChangeFailed):
        world.runner.configure(ModelConfigured(MODEL, SETTINGS))
    assert world.broken == 1


async def test_idle_returns_when_the_scheduler_is_broken(world, faults):
    faults.raises["handle"] = 1
    world.submit("a", 1)
    world.turn()
    await world.runner.idle()


def test_the_history_of_a_request_that_broke_the_scheduler_is_logged(world, caplog):
    world.submit("first", 1)
    world.turn()
    first = world.pendings["first"]
    again = RequestArrived(first.id, MODEL, 1, 0, (), "", 0)
    with caplog.at_level(logging.CRITICAL):
        world.runner.feed(again)
    assert world.broken == 1
    assert f"request {first.id} arrived, but is live" in world.runner.broken
    assert "\n" not in world.runner.broken
    assert "what touched it lately:\n" in caplog.text
    assert f" ns: RequestArrived(id={first.id}" in caplog.text
