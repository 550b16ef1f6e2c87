"""When the scheduler wants to be called: never too late, and early calls are harmless."""

from __future__ import annotations

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.events import InstanceUp
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive


def test_nothing_to_wait_for(play):
    assert play.wakeup is None
    play.fixed(delay=10)
    play.up()
    assert play.wakeup is None


def test_the_end_of_a_window(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1, at=5)

    assert play.wakeup == 15
    assert play.batches(play.feed(at=15)) == [[1]]
    assert play.wakeup is None


def test_the_first_of_several_windows_and_expiries(play):
    play.fixed("a", delay=10)
    play.fixed("b", delay=20)
    play.up("i", model="a")
    play.up("j", model="b", max_in_flight=2)
    play.feed(
        play.request(1, model="b", key="x", expires=7),
        play.request(2, model="b", key="y"),
        play.request(3, model="a"),
    )

    seen = []
    while play.wakeup is not None:
        seen.append(play.wakeup)
        play.feed(at=play.wakeup)

    assert seen == [6, 10, 20]


def test_no_window_closes_while_every_instance_is_busy(play):
    play.fixed(delay=10, max_rows=2)
    play.up()
    play.arrive(1, 2, 3)

    assert play.wakeup is None


def test_a_window_that_closed_in_the_meantime_is_acted_on_at_once(play):
    play.fixed(delay=10, max_rows=2)
    play.up()
    play.arrive(1, 2, 3)

    assert play.batches(play.done(1, 1, 2, at=11)) == [[3]]


def test_a_window_that_is_still_open_when_an_instance_comes_free(play):
    play.fixed(delay=10, max_rows=2)
    play.up()
    play.arrive(1, 2, 3)
    play.done(1, 1, 2, at=4)

    assert play.wakeup == 10


def test_early_and_repeated_wakeups_change_nothing(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1, expires=50)
    before = play.scheduler.snapshot()

    for _ in range(3):
        assert play.feed() == []
        assert play.wakeup == 10
    assert play.scheduler.snapshot() == before

    assert play.feed(at=9.999) == []
    assert play.wakeup == 10
    assert play.batches(play.feed(at=10)) == [[1]]
    assert play.feed(at=10) == []


def test_a_late_wakeup_does_all_that_is_due(play):
    play.fixed(delay=10, max_rows=4)
    play.up()
    play.feed(play.request(1, expires=12), play.request(2))

    commands = play.feed(at=30)

    assert list(play.ended(commands)) == [1]
    assert play.batches(commands) == [[2]]


def test_time_does_not_go_back(play):
    play.fixed(delay=10)
    play.up()
    play.feed(at=20)

    assert play.arrive(1, at=15) == []
    assert play.scheduler.now_ns == 20_000_000
    assert play.wakeup == 25
    assert play.feed(at=1) == []
    assert play.scheduler.observe(0).now_ns == 20_000_000
    assert play.batches(play.feed(at=25)) == [[1]]


def test_a_request_that_expired_by_the_latest_time_stays_expired_when_the_clock_goes_back(play):
    play.none()
    play.up()
    play.feed(at=20)

    assert play.batches(play.feed(play.request(1, expires=18), at=10)) == []


def test_asking_does_not_change_the_answer(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1, expires=5)
    play.cancel(1)
    play.arrive(2, expires=8)
    before = play.scheduler.snapshot()

    assert [play.wakeup, play.wakeup] == [7, 7]
    assert play.scheduler.snapshot() == before


def test_the_next_limit_while_something_waits(play):
    play.model("m", Adaptive(limit_ns=100 * MILLISECOND), 8, target=20)
    play.feed(InstanceUp("i", 1, "m", "d", 1, ((1, 5 * MILLISECOND), (8, 5 * MILLISECOND))))
    play.arrive(0)
    assert play.wakeup == 100  # What runs may have to run again.
    play.arrive(1, at=40)  # Late: the batch before it has not come back for so long.
    play.arrive(2, at=60)

    assert play.wakeup <= 140
    assert play.feed(at=100) == []  # The limit of request 0, which runs.
    assert play.wakeup == 140
    twin = Scheduler.restore(play.scheduler.snapshot())
    assert twin.next_wakeup_ns() == play.scheduler.next_wakeup_ns()
    assert play.feed(at=139.999) == []
    refused = Outcome.REJECTED, Reason.PREDICTED_LATE
    assert play.ended(play.feed(at=140)) == {1: refused}
    assert play.wakeup == 160
    assert play.ended(play.feed(at=160)) == {2: refused}
    assert play.batches(play.done(1, 0, at=161)) == []
    assert play.wakeup is None


def test_limits_that_follow_each_other_closely(play):
    """They are found together; some of them end or come meanwhile."""
    play.model("m", Adaptive(limit_ns=100 * MILLISECOND), 1, target=20)
    play.up()
    play.arrive(0)
    for request_id, at in ((1, 1), (2, 3), (3, 5), (4, 8), (5, 30)):
        play.arrive(request_id, at=at)
    play.feed(at=100)
    assert play.wakeup == 101
    play.cancel(3, at=102)
    assert play.wakeup == 103
    twin = Scheduler.restore(play.scheduler.snapshot())
    play.feed(at=103)
    twin.handle([], 103 * MILLISECOND)
    assert play.wakeup == 108  # That of request 3 has gone.
    assert twin.next_wakeup_ns() == play.scheduler.next_wakeup_ns()
    play.arrive(6, at=104)
    assert play.wakeup == 108
    assert set(play.ended(play.feed(at=108))) == {4}
    assert play.wakeup == 130
    play.model("m", Adaptive(limit_ns=10 * MILLISECOND), 1, target=10)
    play.arrive(7, at=115)
    assert play.wakeup == 125
    assert set(play.ended(play.feed(at=125))) == {7}
    assert [set(play.ended(play.feed(at=at))) for at in (130, 204)] == [{5}, {6}]


def test_the_limit_of_what_runs_again(play):
    play.model("m", Adaptive(limit_ns=100 * MILLISECOND), 8, target=20)
    play.up()
    play.arrive(1, 2)
    play.error(1, at=10)
    assert play.wakeup == 100
