"""How long the slots are in which what is offered is counted: some requests of each model."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.scale.offered import LONGEST_SLOT_NS, SLOT_NS, SLOTS, Offered

A, B = ((1,),), ((2,),)
OLDER = 8
"""Attributes of a captured state from before slots had a length."""


def total(rows):
    return sum(rows.values())


def counted(offered):
    """All rows that it holds."""
    return total(offered.rows) + sum(each for _, rows in offered.ended for _, each in rows)


def per_second(offered, now_ns):
    rates = offered.lately(now_ns, total)
    return None if rates is None else total(rates) * SECOND


def poisson(offered, a_second, until_s, *, rows=1, request_s=0.0, seed=1):
    """Count a stream, and return the rates that are seen each second after the first window."""
    draw, at_s, seen = random.Random(seed), 0.0, []
    for second in range(1, int(until_s)):
        while at_s < second:
            offered.count(A, rows, int(at_s * SECOND))
            at_s += draw.expovariate(a_second)
        if request_s:
            offered.fit_slots(1 / (request_s * SECOND), second * SECOND)
        if second * SECOND > SLOTS * offered.slot_ns:
            seen.append(per_second(offered, second * SECOND))
    return seen


@pytest.mark.parametrize("request_s", [1, 5, 30])
@pytest.mark.parametrize("load", [0.5, 1.0])
def test_the_load_of_slow_requests_is_known_after_a_window(request_s, load):
    loads = []
    for seed in range(4):
        seen = poisson(Offered(), load / request_s, 200 * request_s, request_s=request_s, seed=seed)
        assert None not in seen
        loads += [each * request_s for each in seen]
    assert fmean(loads) == pytest.approx(load, rel=0.15)
    assert sum(each == 0 for each in loads) <= 0.001 * len(loads)
    assert max(loads) < 3 * load


@pytest.mark.parametrize(
    ("request_s", "slot_s"),
    [(0.001, 0.5), (0.2, 0.5), (0.21, 1), (1, 4), (5, 16), (30, 128), (1e6, 4096)],
)
def test_a_slot_holds_some_requests(request_s, slot_s):
    offered = Offered()
    offered.fit_slots(1 / (request_s * SECOND), 0)
    assert offered.slot_ns == slot_s * SECOND <= LONGEST_SLOT_NS


def test_requests_of_many_rows_have_longer_slots():
    offered = Offered()
    poisson(offered, 0.5, 60, rows=10)
    offered.fit_slots(10 / SECOND, 60 * SECOND)
    assert offered.slot_ns == 4 * SECOND


def test_slots_become_longer_at_once_and_shorter_with_a_factor_of_two_to_spare():
    offered = Offered()
    slots = []
    for request_s in (0.2, 0.25, 0.2, 0.15, 0.11, 0.1, 0.11, 1.0, 0.5, 0.41, 0.4, 0.3):
        offered.fit_slots(1 / (request_s * SECOND), SECOND)
        slots.append(offered.slot_ns / SECOND)
    assert slots == [0.5, 1, 1, 1, 1, 0.5, 0.5, 4, 4, 4, 2, 2]


def test_fast_models_are_counted_as_if_nothing_had_been_said():
    told, plain = Offered(), Offered()
    poisson(told, 30, 60, request_s=0.19)
    poisson(plain, 30, 60)
    assert told.capture() == plain.capture()


@given(
    moments=st.lists(st.tuples(st.integers(0, 4_900), st.sampled_from([A, B])), max_size=40),
    lengths=st.lists(st.floats(0.01, 40.0), max_size=4),
)
def test_other_slots_keep_the_sum_of_the_last_ones(moments, lengths):
    offered = Offered()
    for at_ms, bucket in sorted(moments):
        offered.count(bucket, 3, at_ms * MILLISECOND)
    now_ns, kept = 4_900 * MILLISECOND, offered.slot_ns
    for request_s in lengths:
        offered.fit_slots(1 / (request_s * SECOND), now_ns)
        kept = min(kept, offered.slot_ns)
        if kept != offered.slot_ns:
            assert offered.ends_ns - offered.slot_ns <= now_ns < offered.ends_ns
        assert offered.ends_ns % offered.slot_ns == 0
        assert len(offered.ended) <= SLOTS
        assert kept == SLOT_NS  # ten of these hold all that there is
        assert counted(offered) == pytest.approx(3 * len(moments))


@pytest.mark.parametrize(("first_s", "then_s"), [(0.1, 0.4), (0.4, 1.0), (4.0, 0.4), (1.0, 0.2)])
def test_the_rate_goes_on_where_slots_change(first_s, then_s):
    offered = Offered()
    offered.fit_slots(1 / (first_s * SECOND), 0)
    for at in range(2_000):
        offered.count(A, 1, at * SECOND // 10)
    for second in range(200, 300):
        for at in range(10):
            offered.count(A, 1, second * SECOND + at * SECOND // 10)
        now_ns = (second + 1) * SECOND - 1
        offered.fit_slots(1 / (then_s * SECOND), now_ns)
        assert per_second(offered, now_ns) == pytest.approx(10, rel=0.03)
        assert total(offered.usual_rows) / offered.usual_requests == pytest.approx(1)


def test_what_is_too_long_ago_for_short_slots_is_not_known_in_long_ones():
    offered = Offered()
    for at in range(600):
        offered.count(A, 1, at * SECOND // 10)
    offered.fit_slots(1 / (5 * SECOND), 60 * SECOND)
    assert offered.known_ns == 48 * SECOND or offered.known_ns >= 54 * SECOND
    assert per_second(offered, 60 * SECOND) is None
    for at in range(600, 1_000):
        offered.count(A, 1, at * SECOND // 10)
    assert per_second(offered, 100 * SECOND) == pytest.approx(10, rel=0.01)


def test_nothing_offered_is_known_in_long_slots_too():
    offered = Offered()
    offered.fit_slots(1 / (30 * SECOND), 10 * SECOND)
    assert per_second(offered, 255 * SECOND) is None
    assert per_second(offered, 256 * SECOND) == 0
    assert per_second(offered, 9_000 * SECOND) == 0


@pytest.mark.parametrize(("old_s", "new_s"), [(0.1, 2.0), (2.0, 0.1), (2.0, 2.0)])
def test_a_generation_takes_over_slots_of_another_length(old_s, new_s):
    old, new = Offered(), Offered()
    for each, request_s in ((old, old_s), (new, new_s)):
        each.fit_slots(1 / (request_s * SECOND), 0)
    for at in range(40):
        (old if at < 30 else new).count(A, 2, at * SECOND // 10)
    before = old.capture()
    new.take_over(old)
    assert old.capture() == before
    assert new.slot_ns == max(old.slot_ns, new.slot_ns)
    assert counted(new) == pytest.approx(80)
    for second in range(4, 100):
        new.count(A, 20, second * SECOND)
    assert per_second(new, 100 * SECOND - 1) == pytest.approx(20, rel=0.05)
    assert total(new.usual_rows) > 0


def test_long_slots_are_captured_and_restored():
    offered, copy = Offered(), Offered(9 * SECOND)
    poisson(offered, 1, 50, request_s=0.7)
    copy.restore(offered.capture())
    for each in (offered, copy):
        poisson(each, 2, 90, request_s=3.0, seed=2)
    assert copy.capture() == offered.capture()
    assert copy.slot_ns == 8 * SECOND


def test_older_states_have_slots_of_half_a_second():
    offered, copy = Offered(), Offered()
    poisson(offered, 10, 50)
    copy.fit_slots(1 / (30 * SECOND), 0)
    copy.restore(offered.capture()[:OLDER])
    assert copy.slot_ns == SLOT_NS
    assert per_second(copy, 50 * SECOND) == per_second(offered, 50 * SECOND)
    copy.fit_slots(1 / SECOND, 50 * SECOND)
    assert copy.slot_ns == 4 * SECOND
