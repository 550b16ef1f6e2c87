"""The error for each reason with which the scheduler ends a request."""

from __future__ import annotations

import pytest

from batcher import errors
from batcher.core.commands import Outcome, Reason, Settle
from batcher.runtime.refusals import error_for


@pytest.mark.parametrize("reason", [each for each in Reason if each is not Reason.NONE])
def test_every_reason_has_an_error_that_names_the_model(reason):
    error = error_for(Settle((1,), Outcome.REJECTED, reason, 7), "m", None)
    assert str(error).startswith("m: ")
    assert error.retry_after_ns == 7


@pytest.mark.parametrize(
    ("reason", "kind", "setting"),
    [
        (Reason.DEADLINE_TOO_SHORT, errors.DeadlineExpired, "fastest batch"),
        (Reason.TOO_MANY_ROWS, errors.InvalidRequest, "more rows"),
        (Reason.TOO_MANY_BYTES, errors.InvalidRequest, "queue.max_bytes"),
        (Reason.QUEUE_GROUPS, errors.Overloaded, "queue.max_groups"),
    ],
)
def test_a_refusal_has_its_error_class_and_setting(reason, kind, setting):
    error = error_for(Settle((1,), Outcome.REJECTED, reason), "m", None)
    assert type(error) is kind
    assert setting in str(error)
