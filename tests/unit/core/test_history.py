"""An invalid transition tells what touched the request, and remembering that costs no more than a bound."""

from __future__ import annotations

import re

import pytest

from batcher.core.events import CancelCause, RequestCancelled
from batcher.core.history import KEPT_STEPS, LONGEST_LINE, History, InvalidTransition
from batcher.core.scheduler import Scheduler


@pytest.fixture
def busy(play):
    """Requests 1 and 2 run in batch 1; 3 waits."""
    # Of its own, because what a test breaks is not validated afterwards.
    busy = type(play)(Scheduler())
    busy.fixed(max_rows=2)
    busy.up()
    busy.arrive(1, 2, 3, at=5)
    return busy


def story(play, break_it):
    with pytest.raises(InvalidTransition) as caught:
        break_it(play)
    return str(caught.value).split("\n")


def test_the_text_tells_every_event_and_command_that_touched_the_request(busy):
    busy.cancel(3, at=6)
    busy.done(1, 1, last=False, at=7)
    first, *lines = story(busy, lambda play: play.arrive(2, at=8))
    assert first.startswith("request 2 arrived, but is live: <request 2 of m, 1 rows, in batch 1>")
    kinds = [re.match(r"  (\d+) ns: (\w+)\(", line).groups() for line in lines]
    assert kinds == [
        ("0", "ModelConfigured"),
        ("0", "InstanceUp"),
        ("5000000", "RequestArrived"),
        ("5000000", "Dispatch"),
        ("7000000", "BatchProgress"),
        ("8000000", "RequestArrived"),
    ]
    assert "id=2" in lines[2]


def test_commands_of_the_step_that_failed_are_told_too(busy):
    *_, before, last = story(
        busy, lambda play: play.feed(play.request(4, model="unknown"), play.request(2), at=9)
    )
    assert "Dispatch" in before
    assert "9000000 ns: RequestArrived(id=2" in last
    # What another request went through is no part of it.
    assert "Settle" not in before + last


def lose(queue, request):
    """A defect: the request is in its group no more, but its queue believes it is."""
    [group] = queue.groups.values()
    group.discard(request)


def test_a_request_that_is_not_where_it_waits(busy):
    model = busy.scheduler.models["m"]
    lose(model.queue, busy.scheduler.live[3])
    first, *_ = story(busy, lambda play: play.cancel(3, at=6))
    assert first.startswith("request 3 has no class of its rank")


def test_a_request_that_is_not_in_its_class(busy):
    busy.arrive(4)
    model = busy.scheduler.models["m"]
    lose(model.queue, busy.scheduler.live[3])
    first, *_ = story(busy, lambda play: play.cancel(3, at=6))
    assert first.startswith("request 3 does not wait in its class")


def test_a_request_in_no_group(busy):
    busy.scheduler.models["m"].queue.groups.clear()
    first, *_ = story(busy, lambda play: play.cancel(3, at=6))
    assert first.startswith("request 3 waits in no group")


def test_a_request_that_is_done_but_not_live(busy):
    del busy.scheduler.live[2]
    first, *_ = story(busy, lambda play: play.done(1, 1, 2, at=6))
    assert first.startswith("request 2 is done, but is not live")


def test_a_request_that_failed_but_is_not_live(busy):
    del busy.scheduler.live[2]
    first, *_ = story(busy, lambda play: play.scheduler.contents.ledger.fail([2], "device"))
    assert first == "request 2 has failed (device), but is not live"


def test_a_request_that_is_given_up_but_not_live(busy):
    ledger, request = busy.scheduler.contents.ledger, busy.scheduler.live.pop(3)
    first, *_ = story(busy, lambda _: ledger.forget(request))
    assert first.startswith("request 3 is given up, but is not live")


def test_nothing_is_remembered_of_a_request_from_long_ago():
    history, error = History(), InvalidTransition(1, "is broken")
    error.add_history("waiting", history.of(1))
    assert str(error) == (
        "request 1 is broken; its state is waiting; what touched it lately:\n  nothing that is remembered"
    )


def test_the_oldest_steps_are_forgotten_first(busy):
    history = busy.scheduler._history
    for step in range(2 * KEPT_STEPS):
        busy.cancel(1000 + step)
        assert len(history) <= KEPT_STEPS
    assert history.of(1000) == []
    assert len(history.of(1000 + 2 * KEPT_STEPS - 1)) == 1


def test_steps_in_which_nothing_happened_are_not_remembered(busy):
    before = len(busy.scheduler._history)
    busy.feed(at=100)
    assert len(busy.scheduler._history) == before


def test_the_first_events_of_a_large_step_are_forgotten(busy):
    busy.feed(*[RequestCancelled(1000 + i, CancelCause.CANCELLED) for i in range(KEPT_STEPS + 1)])
    assert busy.scheduler._history.of(1000) == []
    assert len(busy.scheduler._history.of(1001)) == 1


def test_lines_are_short_whatever_a_batch_holds(busy):
    busy.fixed(max_rows=2000)
    busy.arrive(*range(10, 1010))
    busy.done(1, 1, 2, at=6)
    lines = story(busy, lambda play: play.arrive(10, at=8))
    assert max(map(len, lines)) <= LONGEST_LINE + 2
