"""What is offered now: a step shows in full after five seconds, a burst does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.scale.offered import MOST_BUCKETS, Offered

A, B = ((1,),), ((2,),)


def total(rows):
    return sum(rows.values())


def steady(offered, a_second, since_s, until_s, bucket=A):
    for at in range(int(since_s * a_second), int(until_s * a_second)):
        offered.count(bucket, 1, at * SECOND // a_second)


def rate(offered, at_s):
    """Rows a second."""
    rates = offered.lately(int(at_s * SECOND), total)
    return None if rates is None else sum(rates.values()) * SECOND


def test_the_first_second_tells_nothing_and_then_nothing_offered_is_known():
    offered = Offered(10 * SECOND)
    assert rate(offered, 10.9) is None
    assert rate(offered, 11) == 0
    assert rate(offered, 100) == 0


def test_what_began_lately_is_counted_from_its_beginning():
    offered = Offered(10 * SECOND)
    steady(offered, 100, 10, 11.5)
    assert rate(offered, 11.5) == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(("before", "after"), [(30, 300), (300, 30), (100, 0)])
def test_a_step_shows_in_full_after_five_seconds(before, after):
    offered = Offered()
    steady(offered, before, 0, 60)
    assert rate(offered, 60) == pytest.approx(before, rel=0.01)
    passed_s = 60
    for at_s in (65, 66, 68):
        steady(offered, after, passed_s, at_s)
        passed_s = at_s
        assert rate(offered, at_s) == pytest.approx(after, rel=0.01, abs=0.01)


def test_a_burst_counts_as_its_part_of_half_a_minute():
    offered = Offered()
    steady(offered, 100, 0, 60)
    for _ in range(100):
        offered.count(A, 1, 60 * SECOND)
    passed_s = 60
    for at_s in (61, 63, 66):
        steady(offered, 100, passed_s, at_s)
        passed_s = at_s
        assert rate(offered, at_s) == pytest.approx(100, rel=0.04)


def test_bursts_that_keep_coming_count_in_full():
    offered = Offered()
    for second in range(0, 240, 4):
        offered.count(A, 200, second * SECOND)
    values = [rate(offered, 239 + step / 10) for step in range(10)]
    assert sum(values) / len(values) == pytest.approx(50, rel=0.15)


def test_the_rows_of_buckets_add_up_and_costs_weigh_them():
    offered = Offered()
    for slot in range(40):
        steady(offered, 100, slot / 2, (slot + 1) / 2)
        steady(offered, 50, slot / 2, (slot + 1) / 2, B)
    found = offered.lately(20 * SECOND, lambda rows: rows.get(A, 0.0) + 3 * rows.get(B, 0.0))
    assert found[A] * SECOND == pytest.approx(100, rel=0.01)
    assert found[B] * SECOND == pytest.approx(50, rel=0.01)


def test_more_buckets_than_are_told_apart_lose_no_row():
    offered = Offered()
    for number in range(10 * MOST_BUCKETS):
        offered.count(((number,),), 1, 2 * SECOND)
    assert len(offered.rows) == MOST_BUCKETS
    assert total(offered.rows) == 10 * MOST_BUCKETS
    offered.count(A, 1, 3 * SECOND)
    assert len(offered.usual_rows) <= MOST_BUCKETS


@given(
    moments=st.lists(st.integers(0, 20 * SECOND), max_size=30).map(sorted),
    others=st.lists(st.integers(0, 20 * SECOND), max_size=30).map(sorted),
    later_ms=st.integers(0, 60_000),
)
def test_one_that_takes_over_another_has_counted_all(moments, others, later_ms):
    old, new, both = Offered(), Offered(), Offered()
    for at_ns in moments:
        old.count(A, 1, at_ns)
    for at_ns in others:
        new.count(A, 1, at_ns)
    for at_ns in sorted(moments + others):
        both.count(A, 1, at_ns)
    new.take_over(old)
    now_ns = 20 * SECOND + later_ms * MILLISECOND
    found, wanted = (sum(each.lately(now_ns, total).values()) for each in (new, both))
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-15)


@given(
    moments=st.lists(st.integers(0, 30 * SECOND), max_size=60).map(sorted), more=st.integers(1, 9)
)
def test_more_rows_are_more_offered(moments, more):
    few, many = Offered(), Offered()
    for at_ns in moments:
        few.count(A, 1, at_ns)
        many.count(A, 1 + more, at_ns)
    for now_s in (31, 33, 40):
        first, second = (rate(each, now_s) for each in (few, many))
        assert second == pytest.approx((1 + more) * first)


def test_it_is_captured_and_restored():
    offered = Offered()
    steady(offered, 100, 0, 9.7)
    copy = Offered(9 * SECOND)
    copy.restore(offered.capture())
    steady(offered, 70, 9.7, 30)
    steady(copy, 70, 9.7, 30)
    assert copy.capture() == offered.capture()
    copy.restore(())
