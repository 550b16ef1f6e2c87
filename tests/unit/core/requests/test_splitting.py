"""Requests that fit no single batch."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.events import Failure, FailureCause, InstanceUp, ModelConfigured, ModelRemoved
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits

OK = (Outcome.OK, Reason.NONE)


@pytest.fixture
def four(play):
    """A model of four rows a batch, one instance."""
    play.fixed(max_rows=4)
    play.up()
    return play


def test_it_is_executed_in_pieces_and_ends_with_the_last(four):
    assert four.parts(four.arrive(1, rows=10)) == [[(1, 0, 4)]]
    assert four.parts(four.done(1, 1)) == [[(1, 4, 8)]]
    assert four.parts(four.done(2, 1)) == [[(1, 8, 10)]]

    assert four.ended(four.done(3, 1)) == {1: OK}
    assert four.scheduler.live == {}


def test_requests_that_come_meanwhile_go_between_its_batches(four):
    four.arrive(1, rows=12)
    four.arrive(2, 3, rows=2)

    assert four.batches(four.done(1, 1)) == [[2, 3]]
    four.arrive(4)
    assert four.parts(four.done(2, 2, 3)) == [[(1, 4, 8)]]
    four.arrive(5, rows=4)
    # 4 and 5 came behind that piece, and wait for no other one.
    assert four.batches(four.done(3, 1)) == [[4]]
    assert four.batches(four.done(4, 4)) == [[5]]
    assert four.parts(four.done(5, 5)) == [[(1, 8, 12)]]


def test_its_rows_fill_room_in_batches_of_others(four):
    four.arrive(1, rows=10)
    four.arrive(2)

    assert four.parts(four.done(1, 1)) == [[(2, 0, 1), (1, 4, 7)]]
    assert four.ended(commands := four.done(2, 2, 1)) == {2: OK}
    assert four.parts(commands) == [[(1, 7, 10)]]
    assert four.ended(four.done(3, 1)) == {1: OK}


def test_instances_share_its_pieces(four):
    four.up("j")
    assert four.parts(four.arrive(1, rows=10)) == [[(1, 0, 4)], [(1, 4, 8)]]
    assert four.parts(four.done(2, 1)) == [[(1, 8, 10)]]
    assert four.ended(four.done(3, 1)) == {}
    assert four.ended(four.done(1, 1)) == {1: OK}


@pytest.mark.parametrize("how", ["row", "device", "down", "cancelled", "expired"])
def test_when_it_ends_its_waiting_rows_go_and_its_running_rows_are_ignored(four, how):
    four.up("j")
    four.arrive(1, rows=14, expires=9)
    match how:
        case "row":
            commands = four.done(1, failed=[Failure(1, FailureCause.INPUT)])
            end = Outcome.FAILED, Reason.INPUT_FAILURE
        case "device":
            commands = four.error(1, FailureCause.DEVICE)
            end = Outcome.FAILED, Reason.DEVICE_FAILURE
        case "down":
            commands = four.down("i")
            end = Outcome.FAILED, Reason.INSTANCE_DOWN
        case "cancelled":
            commands = four.cancel(1)
            end = Outcome.CANCELLED, Reason.CALLER_CANCELLED
        case _:
            commands = four.feed(at=9)
            end = Outcome.EXPIRED, Reason.CALLER_DEADLINE

    assert four.ended(commands) == {1: end}
    assert four.batches(commands) == []
    assert four.ended(four.done(2, 1)) == {}
    assert four.scheduler.live == {}


def test_a_request_has_at_most_so_many_batches(play):
    play.fixed(max_rows=4, max_batches_per_request=3)
    play.up()

    assert play.parts(play.arrive(1, rows=12)) == [[(1, 0, 4)]]
    refused = Outcome.REJECTED, Reason.TOO_MANY_ROWS
    assert play.ended(play.arrive(2, rows=13)) == {2: refused}


def test_all_its_rows_count_against_the_bound_of_the_queue(play):
    limits = QueueLimits(max_rows=20)
    play.feed(ModelConfigured("m", ModelSettings(4, Adaptive(), limits)))
    play.up()
    play.arrive(1)
    play.arrive(2, rows=12)
    assert play.scheduler.observe(0).models[0].waiting_rows == 12

    assert play.ended(play.arrive(3, rows=9)) == {3: (Outcome.REJECTED, Reason.QUEUE_ROWS)}
    assert play.ended(play.arrive(4, rows=8)) == {}


def test_a_split_request_goes_on_in_pieces_of_a_larger_maximum(play):
    play.fixed(max_rows=2)
    play.up()
    play.arrive(0)
    play.arrive(1, rows=9)
    play.fixed(max_rows=5)
    assert play.parts(play.done(1, 0)) == [[(1, 0, 5)]]
    assert play.parts(play.done(2, 1)) == [[(1, 5, 9)]]


def test_a_smaller_maximum_splits_waiting_requests_anew(play):
    play.fixed(max_rows=8)
    play.up()
    play.arrive(1)
    play.arrive(2, rows=7)
    play.fixed(max_rows=3)

    assert play.parts(play.done(1, 1)) == [[(2, 0, 3)]]
    assert play.parts(play.done(2, 2)) == [[(2, 3, 6)]]


def test_a_model_that_is_removed_refuses_the_rest(four):
    four.arrive(1, rows=9)

    removed = {1: (Outcome.REJECTED, Reason.MODEL_REMOVED)}
    assert four.ended(four.feed(ModelRemoved("m"))) == removed
    assert four.ended(four.done(1, 1)) == {}


class TestWithATarget:
    """l(b) = 2 + b milliseconds, 20 ms target, at most 8 rows a batch."""

    @pytest.fixture
    def adaptive(self, play):
        def begin(limit_ns=20 * MILLISECOND):
            settings = ModelSettings(8, Adaptive(limit_ns=limit_ns), target_ns=20 * MILLISECOND)
            profile = tuple((rows, (2 + rows) * MILLISECOND) for rows in (1, 2, 4, 8))
            play.feed(ModelConfigured("m", settings), InstanceUp("i", 1, "m", "d", profile=profile))
            return play

        return begin

    def test_a_piece_takes_half_a_target_at_most(self, adaptive):
        play = adaptive()
        play.model("m", Adaptive(), 8, target=12)
        assert play.parts(play.arrive(1, rows=9, due=40)) == [[(1, 0, 4)]]

    def test_the_time_of_all_its_batches_is_predicted(self, adaptive):
        play = adaptive()
        assert play.parts(play.arrive(1, rows=16)) == [[(1, 0, 8)]]
        late = Outcome.REJECTED, Reason.PREDICTED_LATE
        assert play.ended(play.arrive(2, rows=17)) == {2: late}

    def test_it_is_late_where_its_limit_allows(self, adaptive):
        play = adaptive(None)
        assert play.ended(play.arrive(1, rows=40)) == {}
        for batch in range(1, 6):
            commands = play.done(batch, 1, at=10.0 * batch)
        assert play.ended(commands) == {1: OK}

    def test_a_request_that_has_begun_is_served_late_if_it_is_given_up_for_others(self, adaptive):
        play = adaptive(200 * MILLISECOND)
        play.arrive(1, rows=16)
        # At 10 ms the second piece could not be done before 20 ms if 2 to 9 went first.
        play.arrive(*range(2, 18), at=9)
        ended = {}
        now, batch = 10.0, 1
        while play.scheduler.live:
            running = play.scheduler.fleet.batches.get(batch)
            commands = play.done(batch, *(running.unreported if running else ()), at=now)
            ended |= play.ended(commands)
            now, batch = now + 10, batch + (running is not None)
        assert ended[1] == OK


def test_its_rows_delay_no_request_beyond_its_due_time(play):
    """l(b) = 2 + b milliseconds, and no target of the model's."""
    profile = tuple((rows, (2 + rows) * MILLISECOND) for rows in (1, 2, 4, 8))
    play.model("m", Adaptive(), 8)
    play.feed(InstanceUp("i", 1, "m", "d", profile=profile))
    play.arrive(1, rows=20)
    play.arrive(2, due=15)

    assert play.parts(play.done(1, 1, at=10)) == [[(2, 0, 1), (1, 8, 10)]]
