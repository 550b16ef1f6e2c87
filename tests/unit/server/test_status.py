"""The table of errors and statuses."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher import errors, protocol
from batcher.http2.grpc_headers import NO_RETRY, PUSHBACK_KEY
from batcher.server.status import CODES, DETAILS_KEY, MAX_MESSAGE, RETRYABLE, to_status

Code = grpc.StatusCode


def subclasses(cls):
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def ours():
    return {
        each for each in subclasses(errors.RequestError) if each.__module__.startswith("batcher")
    }


@pytest.mark.parametrize("style", ["standard", "triton"])
def test_every_error_has_a_code(style):
    assert set(CODES[style]) == ours()


@pytest.mark.parametrize(
    ("error", "standard", "triton"),
    [
        (errors.InvalidRequest, Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
        (errors.SequenceError, Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
        (errors.UnknownModel, Code.NOT_FOUND, Code.NOT_FOUND),
        (errors.ModelUnavailable, Code.UNAVAILABLE, Code.UNAVAILABLE),
        (errors.Draining, Code.UNAVAILABLE, Code.UNAVAILABLE),
        (errors.Overloaded, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE),
        (errors.BufferFull, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE),
        (errors.DeadlineExpired, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE),
        (errors.RequestCancelled, Code.CANCELLED, Code.CANCELLED),
        (errors.InputRefused, Code.INVALID_ARGUMENT, Code.INTERNAL),
        (errors.ExecutionFailed, Code.INTERNAL, Code.INTERNAL),
        (errors.InternalError, Code.INTERNAL, Code.INTERNAL),
        (errors.AnswerTooLarge, Code.RESOURCE_EXHAUSTED, Code.RESOURCE_EXHAUSTED),
        (errors.InstanceUnavailable, Code.UNAVAILABLE, Code.UNAVAILABLE),
        (errors.NotPermitted, Code.PERMISSION_DENIED, Code.PERMISSION_DENIED),
        (errors.ChangeFailed, Code.INTERNAL, Code.INTERNAL),
        (errors.NotSupported, Code.UNIMPLEMENTED, Code.UNIMPLEMENTED),
    ],
)
def test_codes(error, standard, triton):
    assert to_status(error("why"), "standard").code is standard
    assert to_status(error("why"), "triton").code is triton


@pytest.mark.parametrize("error", sorted(ours(), key=lambda each: each.__name__))
def test_the_standard_message_is_the_errors_own(error):
    status = to_status(error("model 'm': why"), "standard")

    assert status.message == "model 'm': why"


@pytest.mark.parametrize("style", ["standard", "triton"])
@pytest.mark.parametrize("error", sorted(ours(), key=lambda each: each.__name__))
def test_without_a_delay_a_status_that_callers_retry_says_not_to(error, style):
    status = to_status(error("why"), style)

    assert status.trailing_metadata == (NO_RETRY if status.code in RETRYABLE else ())


def test_the_texts_that_triton_clients_look_for():
    assert to_status(errors.DeadlineExpired("late"), "triton").message == "Request timeout expired"
    assert "Exceeds maximum queue size" in to_status(errors.Overloaded("full"), "triton").message
    assert to_status(errors.InvalidRequest("bad"), "triton").message == "bad"


@pytest.mark.parametrize(
    ("delay_ns", "text"), [(1, "1"), (2_000_000, "2"), (2_000_001, "3"), (0, "0")]
)
def test_pushback_is_in_milliseconds_rounded_up(delay_ns, text):
    status = to_status(errors.Draining("bye", retry_after_ns=delay_ns), "standard")

    assert status.trailing_metadata == ((PUSHBACK_KEY, text),)


def test_triton_s_codes_carry_the_pushback_alone():
    error = errors.Overloaded("full", retry_after_ns=5)

    assert to_status(error, "triton").trailing_metadata == ((PUSHBACK_KEY, "1"),)


def test_overload_carries_retry_info():
    error = errors.Overloaded("full", retry_after_ns=1_500_000_000)

    metadata = dict(to_status(error, "standard").trailing_metadata)

    assert metadata[PUSHBACK_KEY] == "1500"
    details = protocol.status.Status.FromString(metadata[DETAILS_KEY])
    assert (details.code, details.message) == (8, "full")
    assert details.details[0].type_url == "type.googleapis.com/google.rpc.RetryInfo"
    info = protocol.error_details.RetryInfo()
    assert details.details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() == 1_500_000_000


def test_retry_info_is_in_whole_milliseconds_rounded_up_so_that_refusals_share_it():
    first, second = (
        dict(to_status(errors.Overloaded("full", retry_after_ns=ns)).trailing_metadata)
        for ns in (1, 999_999)
    )

    assert first[DETAILS_KEY] is second[DETAILS_KEY]
    info = protocol.error_details.RetryInfo()
    protocol.status.Status.FromString(first[DETAILS_KEY]).details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() == 1_000_000


@pytest.mark.parametrize("style", ["standard", "triton"])
def test_halves_of_characters_are_marks(style):
    message = to_status(errors.ModelUnavailable("no file \udcff"), style).message
    assert message == "no file ?"


@given(st.text(max_size=3000), st.sampled_from(["standard", "triton"]))
def test_messages_are_short_enough_for_a_header(text, style):
    assert len(to_status(errors.Overloaded(text), style).message) <= MAX_MESSAGE
