from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import SECOND
from batcher.telemetry.busy import BusyClock, DeviceUse


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


def test_a_device_is_busy_while_any_model_runs_there(telemetry):
    one, other = telemetry.model("a/1", "a", "1"), telemetry.model("b/1", "b", "1")
    for model in (one, other):
        model.device_known("gpu")
    one.execution_started(1, "gpu", 10 * SECOND)
    other.execution_started(2, "gpu", 11 * SECOND)
    one.execution_ended(1, 12 * SECOND)
    other.execution_ended(2, 13 * SECOND)
    other.execution_started(3, "gpu", 20 * SECOND)
    other.execution_ended(3, 21 * SECOND)
    assert telemetry.devices["gpu"].busy.read(30 * SECOND) == 4 * SECOND


def test_a_device_that_no_model_is_on_is_forgotten(telemetry):
    for name in ("a", "b"):
        telemetry.model(f"{name}/1", name, "1").device_known("gpu")
    telemetry.remove("a", "1")
    assert list(telemetry.devices) == ["gpu"]
    telemetry.remove("b", "1")
    telemetry.remove("b", "1")
    assert not telemetry.devices


def test_how_full_batches_are_is_of_the_last_ones():
    use = DeviceUse()
    assert use.fill(0) is None
    use.batch_ended(8, 8, 0)
    for second in range(100, 200):
        use.batch_ended(2, 8, second * SECOND)
    assert use.fill(200 * SECOND) == pytest.approx(0.25, abs=0.001)
    assert use.fill(300 * SECOND) is None
