"""What callers are told of requests that the scheduler ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher import errors
from batcher.clock import MILLISECOND
from batcher.core.commands import Blame, MissedTime, Outcome, Reason, RefusalCause, Settle
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.runtime.refusals import error_for

QUEUE = QueueLimits(
    max_requests=7, max_groups=5, max_rows=900, max_bytes=4096, timeout_ns=MILLISECOND
)
SETTINGS = ModelSettings(8, Adaptive(), QUEUE, target_ns=50 * MILLISECOND)


def error_of(reason, *, settings=SETTINGS, retry_ns=None, failure=None):
    return error_for(Settle((1,), Outcome.REJECTED, reason, retry_ns), "m", settings, failure)


@pytest.mark.parametrize("reason", [each for each in Reason if each is not Reason.NONE])
def test_every_reason_has_an_error_that_names_the_model_and_when_to_retry(reason):
    error = error_of(reason, retry_ns=36_000_001)
    assert str(error).startswith("m: ")
    assert str(error).endswith("; retry in 37 ms, or on another replica")
    assert error.retry_after_ns == 36_000_001
    assert "retry" not in str(error_of(reason))


@pytest.mark.parametrize(
    ("reason", "kind", "setting"),
    [
        (Reason.DEADLINE_TOO_SHORT, errors.DeadlineExpired, "fastest batch"),
        (
            Reason.TOO_MANY_ROWS,
            errors.InvalidRequest,
            "256 rows, the most of one request (max_batch_size x queue.max_batches_per_request)",
        ),
        (
            Reason.TOO_MANY_BYTES,
            errors.InvalidRequest,
            "4096 bytes of input that may wait (queue.max_bytes)",
        ),
        (
            Reason.QUEUE_REQUESTS,
            errors.Overloaded,
            "at most 7 requests may wait (queue.max_requests)",
        ),
        (Reason.QUEUE_GROUPS, errors.Overloaded, "at most 5 groups"),
        (Reason.QUEUE_GROUPS, errors.Overloaded, "(queue.max_groups)"),
        (Reason.QUEUE_ROWS, errors.Overloaded, "at most 900 rows may wait (queue.max_rows)"),
        (Reason.QUEUE_BYTES, errors.Overloaded, "at most 4096 bytes may wait (queue.max_bytes)"),
        (Reason.PREDICTED_LATE, errors.Overloaded, "not answered before its limit"),
        (Reason.QUEUE_TIMEOUT, errors.DeadlineExpired, "longer than 1 ms (queue.timeout)"),
    ],
)
def test_a_message_names_the_bound_and_its_key(reason, kind, setting):
    error = error_of(reason)
    assert type(error) is kind
    assert setting in str(error)


@pytest.mark.parametrize(
    ("cause", "missed", "late_ms", "text"),
    [
        (
            RefusalCause.QUEUE_AHEAD,
            MissedTime.LIMIT,
            31.25,
            (
                "overloaded: behind what waits and runs the reply would come 31.2 ms after its limit of 1000 ms"
                " (batching.limit); a longer batching.limit, or more instances, would serve it"
            ),
        ),
        (
            RefusalCause.QUEUE_AHEAD,
            MissedTime.TARGET,
            0,
            (
                "overloaded: a reply before its target of 50 ms (batching.target_p99) would make other requests"
                " late; another batching.limit than target would serve it late"
            ),
        ),
        (
            RefusalCause.MARGIN,
            MissedTime.QUEUE_TIMEOUT,
            3,
            (
                "with the margin for slow batches the reply would come 3 ms after its time to wait of 1 ms"
                " (queue.timeout, or its own timeout); a longer queue.timeout, or more instances, would serve it"
            ),
        ),
        (
            RefusalCause.SERVICE_TIME,
            MissedTime.LIMIT,
            1200,
            (
                "one batch alone takes 1200 ms longer than its limit of 1000 ms (batching.limit) leaves; a"
                " longer batching.limit, or more instances, would serve it"
            ),
        ),
        (
            RefusalCause.QUEUE_AHEAD,
            MissedTime.DEADLINE,
            2,
            (
                "overloaded: behind what waits and runs the reply would come 2 ms after the caller's deadline;"
                " allow more time"
            ),
        ),
        (
            RefusalCause.DEADLINE,
            MissedTime.DEADLINE,
            4,
            (
                "one batch alone takes 4 ms longer than the caller's deadline leaves; allow more time: no retry"
                " with the same deadline helps"
            ),
        ),
    ],
)
def test_a_refusal_for_a_prediction_names_the_time_by_how_much_and_what_to_change(
    cause, missed, late_ms, text
):
    limited = replace(SETTINGS, policy=Adaptive(limit_ns=1000 * MILLISECOND))
    blame = Blame(cause, missed, int(late_ms * MILLISECOND))
    settle = Settle((1,), Outcome.REJECTED, Reason.PREDICTED_LATE, None, blame)
    assert str(error_for(settle, "m", limited, None)) == f"m: {text}"


def test_only_bounds_that_are_set_are_named():
    few_rows = replace(SETTINGS, queue=replace(QUEUE, max_rows=100))
    assert "100 rows, the most of one request (queue.max_rows)" in str(
        error_of(Reason.TOO_MANY_ROWS, settings=few_rows)
    )
    unset = ModelSettings(8, Adaptive())
    assert "queue.timeout" not in str(error_of(Reason.QUEUE_TIMEOUT, settings=unset))


def test_the_executor_s_message_comes_before_what_to_do():
    error = error_of(Reason.DEVICE_FAILURE, retry_ns=MILLISECOND, failure="out of memory")
    assert str(error) == (
        "m: the device failed: out of memory; the server's log has details;"
        " retry in 1 ms, or on another replica"
    )


def test_what_was_begun_may_have_been_executed():
    assert "may have executed it" in str(error_of(Reason.INSTANCE_DOWN))


@pytest.mark.parametrize(
    ("reason", "outcome", "before", "after"),
    [
        (Reason.QUEUE_TIMEOUT, Outcome.EXPIRED, "waited longer", "its batch failed, and the time"),
        (
            Reason.CALLER_DEADLINE,
            Outcome.EXPIRED,
            "was answered",
            "its batch failed, and the caller",
        ),
        (
            Reason.UNKNOWN_FAILURE,
            Outcome.FAILED,
            "could not be executed again",
            "the executor failed",
        ),
    ],
)
def test_a_message_says_where_the_batch_of_the_request_failed(reason, outcome, before, after):
    settle = Settle((1,), outcome, reason)
    told = str(error_for(settle, "m", SETTINGS, None))
    assert before in told
    assert after not in told
    told = str(error_for(settle, "m", SETTINGS, "Boom: boom"))
    assert f"m: {after}" in told
    assert "Boom: boom" in told
    assert before not in told
