import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.journal import Tally
from batcher.telemetry import AdmissionReason, Stamps
from batcher.telemetry.tally import tally


def end(model, outcome, reason, *, due_ms=None):
    stamps = Stamps(1, 2, 3, 4, 5, 6, 10 * MILLISECOND)
    model.request_ended(
        outcome, reason, 1, stamps, None if due_ms is None else due_ms * MILLISECOND
    )


def test_nothing_has_happened_yet(model):
    assert tally(model) == Tally(0, 0, 0)


def test_answers_count_as_in_time_or_late(model):
    end(model, Outcome.OK, Reason.NONE)
    end(model, Outcome.OK, Reason.NONE, due_ms=20)
    end(model, Outcome.OK, Reason.NONE, due_ms=5)
    assert tally(model) == Tally(ended=3, on_time=2)


@pytest.mark.parametrize(
    ("outcome", "reason", "expected"),
    [
        (Outcome.REJECTED, Reason.QUEUE_REQUESTS, Tally(ended=1)),
        (Outcome.REJECTED, Reason.PREDICTED_LATE, Tally(ended=1)),
        (Outcome.EXPIRED, Reason.CALLER_DEADLINE, Tally(ended=1)),
        (Outcome.FAILED, Reason.DEVICE_FAILURE, Tally(ended=1, failures=1)),
        (Outcome.FAILED, Reason.INSTANCE_DOWN, Tally(ended=1, failures=1)),
        (Outcome.FAILED, Reason.INPUT_FAILURE, Tally()),
        (Outcome.CANCELLED, Reason.CALLER_CANCELLED, Tally()),
        (Outcome.REJECTED, Reason.TOO_MANY_ROWS, Tally()),
        (Outcome.REJECTED, AdmissionReason.INVALID, Tally()),
        (Outcome.REJECTED, AdmissionReason.DRAINING, Tally()),
    ],
)
def test_an_end_is_the_servers_or_the_callers(model, outcome, reason, expected):
    end(model, outcome, reason)
    assert tally(model) == expected
