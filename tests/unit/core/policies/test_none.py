"""The policy `none`: every request alone, in order of arrival."""

from __future__ import annotations


def test_every_request_goes_alone_and_in_order(play):
    play.none()
    play.up(max_in_flight=3)

    assert play.batches(play.arrive(1, 2, 3, 4)) == [[1], [2], [3]]
    assert play.batches(play.done(2, 2)) == [[4]]


def test_a_request_of_several_rows_goes_whole(play):
    play.none(max_rows=8)
    play.up()

    (dispatch,) = play.arrive(1, rows=8)

    assert [(part.start, part.stop) for part in dispatch.parts] == [(0, 8)]


def test_it_never_waits_for_more_requests(play):
    play.none()
    play.up()
    play.arrive(1)

    assert play.wakeup is None
