from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.observation import InstanceObservation, ModelObservation, Observation
from batcher.telemetry import Telemetry, UnreadReason


class StalledScheduler:
    """Looks like a scheduler in which nothing has moved since moment zero."""

    def __init__(self, clock, *, waiting=True, executing=True, target_ns=50 * MILLISECOND):
        self.clock = clock
        self.waiting = waiting
        self.executing = executing
        self.target_ns = target_ns
        self.instances = (InstanceObservation("m:1/0", 1, "m:1", "cpu", False, 1),)

    def observe(self):
        now_ns = self.clock()
        model = ModelObservation(
            model="m:1",
            waiting_requests=3,
            waiting_rows=7,
            waiting_bytes=4_096,
            executing_requests=2,
            oldest_waiting_ns=now_ns if self.waiting else None,
            oldest_executing_ns=now_ns + SECOND if self.executing else None,
            target_ns=self.target_ns,
        )
        return Observation(now_ns, (model,), self.instances)


@pytest.fixture
def stalled(telemetry, model, clock):
    scheduler = StalledScheduler(clock)
    telemetry.watch(scheduler.observe)
    return scheduler


def test_a_stalled_queue_never_looks_idle(stalled, model, clock, value):
    model.execution_started(1, "cpu", clock())
    readings = []
    for passing_seconds in (1, 1, 58):
        clock.advance(passing_seconds * SECOND)
        readings.append(
            (
                value("batcher_oldest_request_age_seconds", state="waiting"),
                value("batcher_oldest_request_age_seconds", state="executing"),
                value("batcher_oldest_request_target_ratio"),
                value("batcher_executor_busy_seconds_total", device="cpu"),
            )
        )
    assert readings == [(1, 2, 40, 1), (2, 3, 60, 2), (60, 61, 1_220, 60)]
    assert value("batcher_request_duration_seconds_count", outcome="ok") == 0


def test_depths_are_those_of_the_moment(stalled, value):
    assert value("batcher_queue_requests") == 3
    assert value("batcher_queue_rows") == 7
    assert value("batcher_queue_bytes") == 4_096
    assert value("batcher_executing_requests") == 2


def test_an_empty_stage_has_age_zero_and_counts_for_nothing_in_the_ratio(stalled, clock, value):
    clock.advance(SECOND)
    stalled.executing = False
    assert value("batcher_oldest_request_age_seconds", state="executing") == 0
    assert value("batcher_oldest_request_target_ratio") == 20
    stalled.waiting = False
    assert value("batcher_oldest_request_age_seconds", state="waiting") == 0
    assert value("batcher_oldest_request_target_ratio") == 0


def test_without_a_target_there_is_no_ratio(stalled, value):
    stalled.target_ns = None
    assert value("batcher_oldest_request_target_ratio") is None
    assert value("batcher_latency_target_seconds") is None


def test_the_target_is_the_one_in_force(stalled, value):
    assert value("batcher_latency_target_seconds") == 0.05
    stalled.target_ns = 2 * SECOND
    assert value("batcher_latency_target_seconds") == 2


def test_a_model_without_instances_reads_zero(stalled, value):
    assert value("batcher_instances", state="up") == 1
    assert value("batcher_batches_in_flight") == 1
    stalled.instances = (InstanceObservation("m:1/0", 1, "m:1", "cpu", True, 2),)
    assert value("batcher_instances", state="up") == 0
    assert value("batcher_instances", state="draining") == 1
    assert value("batcher_batches_in_flight") == 2
    stalled.instances = ()
    assert value("batcher_instances", state="draining") == 0
    assert value("batcher_batches_in_flight") == 0


def test_the_schedulers_own_name_of_a_model_never_becomes_a_label(registry, telemetry, clock):
    telemetry.watch(StalledScheduler(clock).observe)
    labels = {s.labels.get("model") for family in registry.collect() for s in family.samples}
    assert labels == {None, ""}


def test_busy_time_exists_before_the_first_batch(model, value):
    assert value("batcher_executor_busy_seconds_total", device="cpu") is None
    model.device_known("cpu")
    assert value("batcher_executor_busy_seconds_total", device="cpu") == 0


def test_busy_time_is_counted_for_each_device_and_ends_once(model, clock, value):
    model.execution_started(1, "gpu:0", clock())
    model.execution_started(2, "gpu:1", clock())
    model.execution_ended(1, clock.advance(2 * SECOND))
    model.execution_ended(1, clock.advance(SECOND))
    model.execution_ended(99, clock())
    assert value("batcher_executor_busy_seconds_total", device="gpu:0") == 2
    assert value("batcher_executor_busy_seconds_total", device="gpu:1") == 3


def test_the_first_answer_of_a_model_is_an_increase(model, value):
    assert value("batcher_requests_total", outcome="ok", reason="") == 0


def test_outcomes_that_never_happened_have_no_durations(model, stamps, value):
    assert value("batcher_request_duration_seconds_count", outcome="failed") is None
    model.request_ended(Outcome.FAILED, Reason.DEVICE_FAILURE, 1, stamps(1, 0, 0, 0, 0, 2), None)
    assert value("batcher_request_duration_seconds_count", outcome="failed") == 1


def test_the_name_of_an_unknown_model_never_becomes_a_label(registry, telemetry):
    telemetry.requests.refused_unread(UnreadReason.UNKNOWN_MODEL)
    labels = {"model": "", "version": "", "outcome": "rejected", "reason": "unknown_model"}
    assert registry.get_sample_value("batcher_requests_total", labels) == 1


def test_draining_and_loop_lag(registry, telemetry):
    assert registry.get_sample_value("batcher_draining") == 0
    telemetry.process.draining = True
    telemetry.process.loop_lag(0.25)
    assert registry.get_sample_value("batcher_draining") == 1
    assert registry.get_sample_value("batcher_event_loop_lag_seconds_sum") == 0.25


def test_stalls_are_counted(registry, telemetry):
    assert registry.get_sample_value("batcher_event_loop_stalls_total") == 0
    telemetry.process.loop_stalled(0.06)
    assert registry.get_sample_value("batcher_event_loop_stalls_total") == 1


def test_a_model_is_recorded_in_one_place(telemetry):
    assert telemetry.model("m:1", "m", "1") is telemetry.model("m:1", "m", "1")
    assert telemetry.model("m:1", "m", "1") is not telemetry.model("m:2", "m", "2")


def test_a_registry_takes_one_server(registry, telemetry):
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Telemetry(registry)
