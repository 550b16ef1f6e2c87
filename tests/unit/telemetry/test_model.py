from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Blame, MissedTime, Outcome, Reason, RefusalCause
from batcher.telemetry import AdmissionReason, BatchStatistics, Duration, ModelTelemetry
from batcher.telemetry.reasons import ENDS

STAGES = ("admission", "queue", "gather", "execute", "scatter", "reply")


@pytest.fixture
def stage_sums(value):
    """Milliseconds spent in each stage that was recorded."""

    def read():
        return {
            stage: round(1_000 * value("batcher_stage_duration_seconds_sum", stage=stage), 6)
            for stage in STAGES
            if value("batcher_stage_duration_seconds_count", stage=stage)
        }

    return read


def test_an_answered_request_counts_in_every_stage(model, stamps, value, stage_sums):
    model.request_ended(Outcome.OK, Reason.NONE, 1, stamps(10, 11, 13, 16, 20, 25, 31), None)
    assert stage_sums() == {
        "admission": 1,
        "queue": 2,
        "gather": 3,
        "execute": 4,
        "scatter": 5,
        "reply": 6,
    }
    assert value("batcher_requests_total", outcome="ok", reason="") == 1
    assert value("batcher_request_duration_seconds_sum", outcome="ok") == pytest.approx(0.021)
    assert value("batcher_request_duration_seconds_bucket", outcome="ok", le="0.02") == 0
    assert value("batcher_request_duration_seconds_bucket", outcome="ok", le="0.03") == 1


def test_a_request_that_expires_in_the_queue_counts_the_time_it_waited(
    model, stamps, value, stage_sums
):
    ended = stamps(10, 11, 0, 0, 0, 61, 62)
    model.request_ended(Outcome.EXPIRED, Reason.CALLER_DEADLINE, 1, ended, None)
    assert stage_sums() == {"admission": 1, "queue": 50, "reply": 1}
    assert value("batcher_requests_total", outcome="expired", reason="caller_deadline") == 1


def test_refusals_for_predictions_are_counted_by_what_they_are_blamed_on(model, stamps, value):
    for blame in (Blame(RefusalCause.MARGIN, MissedTime.LIMIT, 1), None):
        ended = stamps(10, 11, 0, 0, 0, 12, 13)
        model.request_ended(Outcome.REJECTED, Reason.PREDICTED_LATE, 1, ended, None, blame)
    assert {
        cause: value("batcher_predicted_refusals_total", cause=cause) for cause in RefusalCause
    } == {
        "queue_ahead": 0,
        "margin": 1,
        "service_time": 0,
        "deadline": 0,
    }


def test_a_request_refused_on_arrival_was_never_in_the_queue(model, stamps, stage_sums):
    ended = stamps(10, 11)
    ended.not_answered(12 * MILLISECOND, 11 * MILLISECOND)
    ended.replied_ns = 13 * MILLISECOND
    model.request_ended(Outcome.REJECTED, Reason.QUEUE_REQUESTS, 1, ended, None)
    assert stage_sums() == {"admission": 2, "reply": 1}


def test_a_request_refused_before_the_scheduler_is_in_admission(model, stamps, value, stage_sums):
    ended = stamps(10, 0, 0, 0, 0, 12)
    model.request_ended(Outcome.REJECTED, AdmissionReason.INVALID, 0, ended, None)
    assert stage_sums() == {"admission": 2, "reply": 0}
    assert value("batcher_requests_total", outcome="rejected", reason="invalid") == 1
    assert value("batcher_request_duration_seconds_sum", outcome="rejected") == 0.002


@pytest.mark.parametrize("started", [0, 13])
def test_a_request_that_ends_while_it_runs_is_in_execute_until_then(
    model, stamps, stage_sums, started
):
    ended = stamps(10, 11, 12, started)
    ended.not_answered(20 * MILLISECOND, 20 * MILLISECOND)
    ended.executed(14 * MILLISECOND, 0)
    ended.replied_ns = 21 * MILLISECOND
    model.request_ended(Outcome.CANCELLED, Reason.CALLER_CANCELLED, 1, ended, None)
    known = started or 12
    assert stage_sums() == {
        "admission": 1,
        "queue": 1,
        "execute": 20 - known,
        "reply": 1,
        **({"gather": 1} if started else {"gather": 0}),
    }


@pytest.mark.parametrize(
    ("outcome", "due", "missed"),
    [
        (Outcome.OK, None, 0),
        (Outcome.OK, 31, 0),
        (Outcome.OK, 30, 1),
        (Outcome.EXPIRED, 30, 0),
    ],
)
def test_only_answers_after_the_target_miss_it(model, stamps, value, outcome, due, missed):
    due_ns = None if due is None else due * MILLISECOND
    model.request_ended(outcome, Reason.NONE, 1, stamps(10, 11, 13, 16, 20, 25, 31), due_ns)
    assert value("batcher_latency_target_missed_total") == missed


def batch(model, rows, **changes):
    model.batch_finished(
        **{
            "rows": rows,
            "requests": 2,
            "max_batch_size": 8,
            "started_ns": 100,
            "execute_start_ns": 110,
            "execute_end_ns": 140,
            "scattered_ns": 145,
            "failed": False,
            **changes,
        }
    )


def test_what_has_ended_so_far_is_what_folding_would_say(model, stamps):
    for number in range(1_300):
        due_ns = (5 + number % 4) * MILLISECOND  # answers come at 7 ms
        model.request_ended(Outcome.OK, Reason.NONE, 1, stamps(1, 2, 3, 4, 5, 6, 7), due_ns)
        model.request_ended(
            Outcome.FAILED, Reason.DEVICE_FAILURE, 1, stamps(1, 2, 3, 4, 5, 6, 7), due_ns
        )
    ended, late = model.ended_so_far()
    assert ended == dict(model.requests)
    assert ended[Outcome.OK, Reason.NONE] == 1_300
    assert late == model.target_missed == 650
    assert model.ended_so_far() == (ended, late)


def test_batches_show_their_shape_also_when_they_fail(model, value):
    batch(model, 6)
    batch(model, 8, failed=True)
    assert value("batcher_batch_rows_sum") == 14
    assert value("batcher_batch_rows_bucket", le="8.0") == 2
    assert value("batcher_batch_requests_sum") == 4
    assert value("batcher_batch_fill_ratio_sum") == 1.75
    assert model.statistics().execution_count == 1


def test_loads_and_failures_are_counted(model, value):
    model.load_finished(1.5)
    model.load_failed()
    model.policy_failed()
    assert value("batcher_model_load_duration_seconds_sum") == 1.5
    assert value("batcher_model_load_failures_total") == 1
    assert value("batcher_policy_failures_total") == 1


def test_statistics_count_answered_requests_and_the_batches_they_ran_in(clock, stamps):
    model = ModelTelemetry("m", "1", clock=clock, epoch_clock=lambda: 5_000 * MILLISECOND)
    clock.advance(40 * MILLISECOND)
    model.request_ended(Outcome.OK, Reason.NONE, 3, stamps(10, 11, 13, 16, 20, 25, 31), None)
    model.request_ended(Outcome.FAILED, Reason.INPUT_FAILURE, 2, stamps(10, 11, 0, 0, 0, 14), None)
    batch(model, 4)
    batch(model, 2)
    batch(model, 4)
    snapshot = model.statistics()
    assert snapshot.inference_count == 3
    assert snapshot.execution_count == 3
    assert snapshot.last_inference_ms == 4_970
    assert snapshot.success == Duration(1, 21 * MILLISECOND)
    assert snapshot.fail == Duration(1, 4 * MILLISECOND)
    assert snapshot.queue == Duration(1, 2 * MILLISECOND)
    assert snapshot.compute_input == Duration(1, 3 * MILLISECOND)
    assert snapshot.compute_infer == Duration(1, 4 * MILLISECOND)
    assert snapshot.compute_output == Duration(1, 5 * MILLISECOND)
    assert snapshot.cache_hit == snapshot.cache_miss == Duration()
    assert snapshot.batch_stats == (
        BatchStatistics(2, Duration(1, 10), Duration(1, 30), Duration(1, 5)),
        BatchStatistics(4, Duration(2, 20), Duration(2, 60), Duration(2, 10)),
    )


def test_statistics_of_an_unused_model_are_zero(model):
    snapshot = model.statistics()
    assert snapshot.last_inference_ms == 0
    assert snapshot.success == snapshot.fail == Duration()
    assert snapshot.batch_stats == ()


def test_every_reason_of_the_scheduler_has_a_counter_from_the_start():
    assert {reason for _, reason in ENDS} >= set(Reason)
