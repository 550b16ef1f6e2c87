"""What is learned of arrivals: rates, and how long to wait for the next one."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.policies.arrivals import GAPS, ArrivalStats

TARGET_NS = 50 * MILLISECOND
MERGE_NS = 5 * MILLISECOND
RANK = 4
CLOSE_NS = int(GAPS[1] * MERGE_NS) // 2


@pytest.fixture
def stats():
    stats = ArrivalStats(TARGET_NS, RANK)
    stats.gap(-1, 0, MERGE_NS, 1)  # Tells it what merging saves.
    return stats


def rounds(stats, *offsets_ns, every_ns=20 * MILLISECOND, count=200):
    """Batches that end every so often, and requests that arrive so long after each."""
    for number in range(1, count + 1):
        ended_ns = number * every_ns
        stats.ended(len(offsets_ns), ended_ns)
        for offset_ns in offsets_ns:
            stats.arrived(1, RANK, ended_ns + offset_ns, active=True)
    stats.fold((count + 1) * every_ns)


def test_requests_just_after_an_answer_are_no_open_stream(stats):
    rounds(stats, *[place * CLOSE_NS for place in range(1, 9)])
    assert stats.steady_rate == 0.0
    assert stats.rate == pytest.approx(8 / (20 * MILLISECOND), rel=0.1)


def test_nor_are_they_where_the_first_finds_the_model_idle(stats):
    for number in range(1, 200):
        ended_ns = number * 20 * MILLISECOND
        stats.ended(2, ended_ns)
        stats.arrived(1, RANK, ended_ns + 2 * MILLISECOND, active=False)
        stats.arrived(1, RANK, ended_ns + 2 * MILLISECOND + CLOSE_NS, active=True)
    stats.fold(200 * 20 * MILLISECOND)
    assert stats.steady_rate == 0.0


def test_a_later_request_is_counted_and_all_after_it(stats):
    late_ns = 10 * MILLISECOND
    rounds(stats, CLOSE_NS, late_ns, late_ns, late_ns)
    counted_ns = 20 * MILLISECOND - CLOSE_NS - GAPS[1] * MERGE_NS
    assert stats.steady_rate == pytest.approx(3 / counted_ns, rel=0.02)


def learn(stats, *, behind, waited_ns, count=50):
    for number in range(count):
        last_ns = number * 100 * MILLISECOND
        stats.gap(last_ns, last_ns, MERGE_NS, behind)
        stats.arrived(1, RANK, last_ns + waited_ns, active=True)


@pytest.mark.parametrize(("behind", "gains"), [(1, True), (2, True), (3, False)])
def test_a_wait_costs_each_request_that_has_waited_for_the_instance(stats, behind, gains):
    learn(stats, behind=behind, waited_ns=MILLISECOND * 3 // 2)
    assert stats.gap(-2, 0, MERGE_NS, behind) == 2 * MILLISECOND
    assert (stats.gap_behind() is not None) is gains


def test_the_wait_is_shorter_the_more_of_them_there_are(stats):
    learn(stats, behind=1, waited_ns=MILLISECOND * 3 // 2)
    stats.gap(-2, 0, MERGE_NS, 4)
    assert stats.gap_behind() == MILLISECOND // 2


def test_a_request_that_found_a_free_instance_has_waited_for_none(stats):
    learn(stats, behind=0, waited_ns=MILLISECOND)
    assert stats.gap(-2, 0, MERGE_NS, 0) is not None
    assert stats.gap_behind() is None
