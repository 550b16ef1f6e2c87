"""The status code that a trace has is the one that the caller gets."""

import pytest

from batcher.core.commands import Reason
from batcher.runtime.refusals import error_classes
from batcher.server.status import CODES, code_of_reason
from batcher.telemetry.reasons import ENDS, AdmissionReason, ReplyReason, UnreadReason


@pytest.mark.parametrize(("outcome", "reason"), ENDS)
def test_every_end_has_a_code(outcome, reason):
    for style in CODES:
        code = code_of_reason(reason, style)
        assert (code == "OK") is (outcome == "ok")
        assert code != "UNKNOWN"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_the_schedulers_reasons_have_the_codes_of_their_errors(reason):
    for style, codes in CODES.items():
        assert code_of_reason(reason, style) == codes[error_classes()[reason]].name


def test_reasons_of_the_same_word_are_told_apart():
    assert code_of_reason(UnreadReason.UNKNOWN_MODEL) == "NOT_FOUND"
    assert code_of_reason(Reason.UNKNOWN_MODEL) == "UNAVAILABLE"
    assert code_of_reason(AdmissionReason.INVALID) == "INVALID_ARGUMENT"
    assert code_of_reason(ReplyReason.INTERNAL) == code_of_reason(UnreadReason.INTERNAL)
    assert code_of_reason("what is not known") == "UNKNOWN"
