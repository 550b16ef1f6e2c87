"""The account of late requests: overload or a burst, closed loop or stream, and what time they get."""

from __future__ import annotations

import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.late import WINDOWS, LateTime

RATE = 1e-6
"""One row a millisecond can be served: a thousand in the second that a burst may take."""
WINDOW_NS = SECOND // WINDOWS
FULL = WINDOW_NS // MILLISECOND
"""The rows that can be served in one window."""


@pytest.fixture
def late():
    account = LateTime()
    account.configure(0.1, 50 * MILLISECOND, SECOND)
    return account


def windows(late, offered, served, count=1):
    """So many windows, each with rows that arrive and rows that are served."""
    for _ in range(count):
        late.offered += offered
        late.begun(served)
        late.next_window(late.window_ends_ns, RATE)


def answers(late, batches, arrive):
    """Batches of 20 rows, and what arrives after each."""
    for _ in range(batches):
        late.ended(20)
        late.since_answers += arrive()


class TestOverload:
    def test_a_load_that_can_be_served_is_none(self, late):
        windows(late, FULL, FULL, 50)
        assert late.overload(RATE) == 0.0

    def test_a_burst_is_none_for_longer_than_two_windows(self, late):
        windows(late, 10 * FULL, FULL)
        # Of the burst counts what can be served in two windows, and half of that is served already.
        assert late.overload(RATE) == pytest.approx(0.2)
        windows(late, 0, FULL, 2)
        assert late.overload(RATE) == 0.0

    def test_more_than_can_be_served_for_longer_than_a_burst_is_one(self, late):
        found = []
        for _ in range(WINDOWS):
            windows(late, FULL * 3 // 2, FULL)
            found.append(late.overload(RATE))
        assert found == sorted(found)
        assert found[1] <= 0.2
        assert found[-1] == 1.0

    def test_it_ends_as_soon_as_what_was_offered_too_much_could_have_been_served(self, late):
        windows(late, 2 * FULL, FULL, 3 * WINDOWS)
        # No more is remembered than one burst.
        assert late.backlog == 10 * FULL
        windows(late, FULL // 2, FULL, 2 * WINDOWS)
        assert late.overload(RATE) == 0.0

    def test_a_request_that_finds_an_idle_instance_ends_it(self, late):
        windows(late, 2 * FULL, FULL, WINDOWS)
        late.offered += 7
        late.idle()
        assert late.overload(RATE) == 0.0
        assert late.offered == 0

    def test_what_its_caller_gave_up_is_not_offered_any_more(self, late):
        late.offered += 2 * FULL
        late.left(FULL)
        late.begun(FULL)
        late.next_window(0, RATE)
        assert late.backlog == 0.0

    def test_what_runs_again_is_not_served_yet(self, late):
        late.offered += 32
        late.begun(32)
        late.again(24)
        late.next_window(0, RATE)
        assert late.backlog == 24.0

    def test_while_nothing_is_measured_there_is_none(self, late):
        late.offered += 10_000
        late.next_window(0, 0.0)
        assert late.backlog == 10_000
        assert late.overload(0.0) == 0.0

    def test_a_burst_may_take_as_long_as_the_limit(self, late):
        late.configure(0.1, 50 * MILLISECOND, 4 * SECOND)
        assert late.burst_ns == 4 * SECOND
        late.configure(0.1, 500 * MILLISECOND, None)
        assert late.burst_ns == 5 * SECOND
        late.configure(0.1, 50 * MILLISECOND, 50 * MILLISECOND)
        assert late.burst_ns == SECOND


class TestCoupling:
    def test_callers_that_wait_for_their_answers_are_a_closed_loop(self, late):
        answers(late, 50, lambda: 20)
        assert late.coupling() == 1.0

    @pytest.mark.parametrize("seed", range(3))
    def test_a_poisson_stream_is_none(self, late, seed):
        draw = random.Random(seed)
        found = []

        def poisson():
            return sum(draw.random() < 0.02 for _ in range(1000))

        for _ in range(100):
            answers(late, 5, poisson)
            found.append(late.coupling())
        assert sum(found) / len(found) <= 0.15

    def test_before_the_first_answers_nothing_is_known(self, late):
        late.since_answers += 5
        assert late.coupling() == 0.0


class TestWait:
    def test_without_overload_all_goes_before_a_late_request(self, late):
        assert late.waits_behind(RATE) == (1.0, 0.0)

    def test_in_overload_late_requests_have_their_share(self, late):
        late.backlog = RATE * SECOND
        assert late.waits_behind(RATE) == (0.0, pytest.approx(1 / 0.1))

    def test_without_a_share_it_has_no_end(self, late):
        late.configure(0.0, 50 * MILLISECOND, SECOND)
        late.backlog = RATE * SECOND
        assert late.waits_behind(RATE)[1] > 1e7


class TestTime:
    """The last late requests came at 0; it is 100 ms later."""

    NOW_NS = 100 * MILLISECOND
    MOST_NS = 80.0 * MILLISECOND

    def entitled(self, late, *, part=0.5, needed=0.0, now_ns=NOW_NS, since_ns=0):
        return late.entitled_ns(now_ns, since_ns, part, needed, self.MOST_NS, RATE) / MILLISECOND

    def test_in_a_stream_what_they_need_by_their_limits(self, late):
        assert self.entitled(late, needed=0.3) == pytest.approx(30)

    def test_in_a_closed_loop_their_part_of_what_waits(self, late):
        answers(late, 50, lambda: 20)
        assert self.entitled(late, needed=0.3) == pytest.approx(50)

    def test_in_overload_their_share(self, late):
        answers(late, 50, lambda: 20)
        late.backlog = RATE * SECOND
        assert self.entitled(late, needed=0.9) == pytest.approx(10)

    def test_no_more_than_one_batch_is_saved_up(self, late):
        assert self.entitled(late, needed=5.0) == self.MOST_NS / MILLISECOND

    def test_time_counts_once_and_only_while_they_wait(self, late):
        self.entitled(late, needed=0.3)
        assert self.entitled(late, needed=0.3) == pytest.approx(30)
        later_ns = 3 * self.NOW_NS
        since_ns = later_ns - 10 * MILLISECOND
        assert self.entitled(late, needed=0.3, now_ns=later_ns, since_ns=since_ns) == pytest.approx(
            33
        )

    def test_time_that_a_batch_was_planned_for_beforehand_counts_once(self, late):
        self.entitled(late, needed=0.3)
        self.entitled(late, needed=0.3, now_ns=self.NOW_NS - 20 * MILLISECOND)
        assert self.entitled(late, needed=0.3) == pytest.approx(30)

    def test_what_they_take_is_charged(self, late):
        late.waiting = True
        self.entitled(late, needed=0.3)
        assert late.due(30 * MILLISECOND)
        assert not late.due(31 * MILLISECOND)
        late.charge(20.0 * MILLISECOND)
        assert late.due(10 * MILLISECOND)
        assert not late.due(11 * MILLISECOND)
        late.charge(20.0 * MILLISECOND)
        assert self.entitled(late) == 0.0

    def test_none_is_due_where_none_waits(self, late):
        self.entitled(late, needed=0.3)
        assert not late.due(1.0)


def test_a_restored_account_goes_on_alike(late):
    draw = random.Random(5)
    twin = LateTime()
    twin.configure(0.1, 50 * MILLISECOND, SECOND)
    for step in range(60):
        if step % 7 == 0:
            twin = LateTime()
            twin.configure(0.1, 50 * MILLISECOND, SECOND)
            twin.restore(late.capture())
        offered, served, waits = draw.randrange(300), draw.randrange(1, 200), draw.random() < 0.5
        found = []
        for each in (late, twin):
            each.waiting = waits
            each.since_answers += offered
            windows(each, offered, served)
            time_ns = each.entitled_ns(step * WINDOW_NS, 0, 0.4, 0.2, 50.0 * MILLISECOND, RATE)
            each.charge(time_ns / 2)
            found.append((time_ns, each.coupling(), each.overload(RATE), each.capture()))
        assert found[0] == found[1]


class TestMostAreLate:
    def test_the_more_requests_become_late_the_more_time_late_ones_get(self, late):
        late.waiting = True
        shares = []
        for _ in range(20):
            late.offered += FULL
            late.became_late += FULL // 2
            late.begun(FULL)
            late.next_window(late.window_ends_ns, RATE)
            late._entitled_ns, late._at_ns = 0.0, 0
            shares.append(late.entitled_ns(1000, 0, 1.0, 0.0, 1e9, RATE) / 1000)
        assert shares == sorted(shares)
        assert shares[0] == pytest.approx(0.1**2)
        assert shares[-1] == pytest.approx(0.5**2, abs=0.01)

    def test_in_overload_that_does_not_count(self, late):
        late.waiting, late.late_part = True, 1.0
        late.backlog = 10 * FULL
        assert late.entitled_ns(1000, 0, 1.0, 0.0, 1e9, RATE) == pytest.approx(0.1 * 1000)
