"""What is learned of arrivals: rates, and whether waiting for the next one is worth it."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.policies.arrivals import CALLED_BACK, ArrivalStats

TARGET_NS = 50 * MILLISECOND
MERGE_NS = 5 * MILLISECOND
CLOSE_NS = int(CALLED_BACK * MERGE_NS) // 2


@pytest.fixture
def pace():
    pace = ArrivalStats(TARGET_NS)
    pace.gap(-1, 0, MERGE_NS, 1)  # It knows what merging saves.
    return pace


def rounds(pace, *offsets_ns, every_ns=20 * MILLISECOND, count=200):
    """Batches that end every so often, and who comes how long after each."""
    for number in range(1, count + 1):
        ended_ns = number * every_ns
        pace.ended(len(offsets_ns), ended_ns)
        for offset_ns in offsets_ns:
            pace.arrived(1, ended_ns + offset_ns, active=True)
    pace.fold((count + 1) * every_ns)


def test_callers_who_come_back_after_their_answers_are_no_stream(pace):
    rounds(pace, *[place * CLOSE_NS for place in range(1, 9)])
    assert pace.steady_rate == 0.0
    assert pace.rate == pytest.approx(8 / (20 * MILLISECOND), rel=0.1)


def test_so_are_those_of_whom_the_first_finds_nobody(pace):
    for number in range(1, 200):
        ended_ns = number * 20 * MILLISECOND
        pace.ended(2, ended_ns)
        pace.arrived(1, ended_ns + 2 * MILLISECOND, active=False)
        pace.arrived(1, ended_ns + 2 * MILLISECOND + CLOSE_NS, active=True)
    pace.fold(200 * 20 * MILLISECOND)
    assert pace.steady_rate == 0.0


def test_who_comes_later_is_counted_and_all_after_it(pace):
    late_ns = 10 * MILLISECOND
    rounds(pace, CLOSE_NS, late_ns, late_ns, late_ns)
    counted_ns = 20 * MILLISECOND - CLOSE_NS - CALLED_BACK * MERGE_NS
    assert pace.steady_rate == pytest.approx(3 / counted_ns, rel=0.02)


def learn(pace, *, behind, waited_ns, count=50):
    for number in range(count):
        last_ns = number * 100 * MILLISECOND
        pace.gap(last_ns, last_ns, MERGE_NS, behind)
        pace.arrived(1, last_ns + waited_ns, active=True)


@pytest.mark.parametrize(("behind", "worth"), [(1, True), (2, True), (3, False)])
def test_a_gap_is_paid_by_all_who_waited_for_the_instance(pace, behind, worth):
    learn(pace, behind=behind, waited_ns=MILLISECOND * 3 // 2)
    assert pace.gap(-2, 0, MERGE_NS, behind) == 2 * MILLISECOND
    assert (pace.gap_behind() is not None) is worth


def test_a_gap_is_shorter_the_more_of_them_there_are(pace):
    learn(pace, behind=1, waited_ns=MILLISECOND * 3 // 2)
    pace.gap(-2, 0, MERGE_NS, 4)
    assert pace.gap_behind() == MILLISECOND // 2


def test_who_came_to_a_free_instance_is_behind_nobody(pace):
    learn(pace, behind=0, waited_ns=MILLISECOND)
    assert pace.gap(-2, 0, MERGE_NS, 0) is not None
    assert pace.gap_behind() is None
