"""Request parameters: the reserved ones are checked and taken out, others are passed on."""

import pytest
from infer_messages import one_raw_input, read, with_parameter

from batcher.errors import InvalidRequest
from batcher.runtime.request import SequenceParameters
from batcher.server.messages.parameters import MAX_PRIORITY, MAX_WAIT_NS


def test_parameters_of_ours_are_taken_out_and_others_passed_on():
    request = one_raw_input()
    request.parameters["priority"].uint64_param = 3
    request.parameters["timeout"].int64_param = 250
    request.parameters["beam"].int64_param = -4
    request.parameters["warm"].double_param = 0.5

    parsed = read(request, priority=1)

    assert parsed.priority == 3
    assert parsed.timeout_ns == 250_000
    assert parsed.parameters == {"beam": -4, "warm": 0.5}


@pytest.mark.parametrize(
    ("name", "nothing", "something"),
    [
        ("sequence_id", {"int64_param": 0}, {"int64_param": -9}),
        ("sequence_id", {"string_param": ""}, {"string_param": "abc"}),
        ("sequence_start", {"bool_param": False}, {"bool_param": True}),
        ("sequence_end", {"bool_param": False}, {"bool_param": True}),
    ],
)
def test_the_zero_of_a_parameter_of_sequences_says_nothing(name, nothing, something):
    assert read(with_parameter(name, **nothing)).sequence is None
    assert read(with_parameter(name, **something)).sequence is not None


@pytest.mark.parametrize(
    ("value", "sequence_id"),
    [
        ({"int64_param": 7}, 7),
        ({"int64_param": -1}, 2**64 - 1),
        ({"uint64_param": 2**64 - 1}, 2**64 - 1),
        ({"string_param": "7"}, "7"),
        ({"string_param": "é" * 64}, "é" * 64),
    ],
)
def test_the_parameters_of_a_sequence_are_taken_out(value, sequence_id):
    request = with_parameter("sequence_id", **value)
    request.parameters["sequence_start"].bool_param = True
    parsed = read(request)
    assert parsed.sequence == SequenceParameters(sequence_id, start=True, end=False)
    assert parsed.parameters is None
    request.parameters["sequence_end"].bool_param = True
    assert read(request).sequence == SequenceParameters(sequence_id, start=True, end=True)


def test_a_long_id_of_a_sequence_is_refused():
    with pytest.raises(InvalidRequest, match="at most 128 bytes of text, got 129"):
        read(with_parameter("sequence_id", string_param="x" + "é" * 64))


def test_a_flag_without_an_id_is_kept():
    parsed = read(with_parameter("sequence_end", bool_param=True))
    assert parsed.sequence == SequenceParameters(None, start=False, end=True)


@pytest.mark.parametrize("timeout", [2**63 - 1, 2**62, 10**13 * 4])
def test_a_timeout_of_more_than_a_year_is_a_year(timeout):
    assert read(with_parameter("timeout", int64_param=timeout)).timeout_ns == MAX_WAIT_NS


@pytest.mark.parametrize(
    "value", [{"int64_param": 2**63 - 1}, {"uint64_param": 2**64 - 1}, {"uint64_param": 2**31}]
)
def test_a_huge_priority_is_the_last(value):
    assert read(with_parameter("priority", **value)).priority == MAX_PRIORITY


def test_a_timeout_of_zero_is_none():
    assert read(with_parameter("timeout", int64_param=0)).timeout_ns is None


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("priority", {"int64_param": -1}, "expected 0 or more, got -1"),
        ("priority", {"string_param": "1"}, "expected int64_param or uint64_param, got string"),
        ("timeout", {"int64_param": -1}, "expected 0 or more, got -1"),
        ("timeout", {"double_param": 1.0}, "expected int64_param, got double_param"),
        (
            "sequence_id",
            {"bool_param": True},
            "expected int64_param or uint64_param or string_param",
        ),
        ("sequence_start", {"int64_param": 1}, "expected bool_param, got int64_param"),
        ("triton_other", {"bool_param": True}, "unknown"),
    ],
)
def test_reserved_parameters_are_checked(name, value, text):
    with pytest.raises(InvalidRequest, match=f"model 'm': parameter '{name}'.*{text}"):
        read(with_parameter(name, **value))


def test_a_parameter_without_a_value_is_invalid():
    request = one_raw_input()
    request.parameters["beam"].SetInParent()

    with pytest.raises(InvalidRequest, match="parameter 'beam' has no value"):
        read(request)
