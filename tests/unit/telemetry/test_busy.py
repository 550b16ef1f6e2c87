from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batcher.telemetry.busy import BusyClock


def test_overlapping_executions_count_once():
    busy = BusyClock()
    busy.started(10)
    busy.started(15)
    busy.ended(20)
    busy.ended(30)
    assert busy.read(100) == 20


def test_idle_time_does_not_count():
    busy = BusyClock()
    busy.started(10)
    busy.ended(20)
    busy.started(50)
    busy.ended(55)
    assert busy.read(100) == 15


def test_a_running_execution_counts_up_to_the_reading():
    busy = BusyClock()
    busy.started(10)
    assert [busy.read(now) for now in (10, 15, 40)] == [0, 5, 30]
    busy.ended(50)
    assert busy.read(60) == 40


def test_a_reading_never_goes_down_when_an_end_lies_before_it():
    busy = BusyClock()
    busy.started(10)
    assert busy.read(30) == 20
    busy.ended(25)
    assert busy.read(40) == 20


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_it_is_the_measure_of_the_union(spans):
    edges = [(start, 1) for start, _ in spans] + [(start + length, 0) for start, length in spans]
    busy = BusyClock()
    # At one moment, starts come first, as an execution of no length needs.
    for now, begins in sorted(edges, key=lambda edge: (edge[0], -edge[1])):
        (busy.started if begins else busy.ended)(now)
    covered = {tick for start, length in spans for tick in range(start, start + length)}
    assert busy.read(1_000) == len(covered)
