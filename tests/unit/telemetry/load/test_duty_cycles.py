from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.telemetry.load import DutyCycles


@pytest.fixture
def cycles(telemetry, clock):
    return DutyCycles(telemetry.devices, clock)


def test_a_duty_cycle_is_the_busy_part_of_the_last_seconds(cycles, telemetry, model, clock):
    model.device_known("cpu")
    cycles.sample()
    assert cycles.of("cpu") is None
    for _ in range(20):
        model.execution_started(1, "cpu", clock())
        clock.advance(250 * MILLISECOND)
        model.execution_ended(1, clock())
        clock.advance(750 * MILLISECOND)
        cycles.sample()
    assert cycles.of("cpu") == 0.25
    for _ in range(10):
        clock.advance(SECOND)
        cycles.sample()
    assert cycles.of("cpu") == 0
    assert cycles.of("gpu0") is None


def test_a_running_batch_counts_and_old_readings_do_not(cycles, model, clock):
    model.device_known("cpu")
    cycles.sample()
    clock.advance(3_600 * SECOND)
    model.execution_started(1, "cpu", clock())
    cycles.sample()
    assert cycles.of("cpu") is None, "the other reading is an hour old"
    clock.advance(SECOND)
    cycles.sample()
    assert cycles.of("cpu") == 1


def test_nothing_is_known_before_a_reading(cycles):
    assert cycles.of("cpu") is None
