"""gRPC statuses of a neighbor as causes of failed batches."""

import grpc
import grpc.aio
import pytest

from batcher import protocol
from batcher.clock import MILLISECOND, SECOND
from batcher.executors.remote.statuses import DETAILS_KEY, cause_of, failure, retry_hint_ns

C = grpc.StatusCode

CASES = [
    (C.INVALID_ARGUMENT, "bad value", "input"),
    (C.OUT_OF_RANGE, "", "input"),
    (C.RESOURCE_EXHAUSTED, "queue is full", "overloaded"),
    (C.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)", "input"),
    (C.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (5 vs. 4)", "input"),
    (C.RESOURCE_EXHAUSTED, "received metadata size exceeds hard limit", "input"),
    (C.UNAVAILABLE, "failed to connect to all addresses", "unavailable"),
    (C.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", "overloaded"),
    (C.UNAVAILABLE, "Request timeout expired", "overloaded"),
    (C.CANCELLED, "", "unavailable"),
    (C.ABORTED, "", "unavailable"),
    (C.NOT_FOUND, "no model", "unavailable"),
    (C.DEADLINE_EXCEEDED, "", "unavailable"),
    (C.UNAUTHENTICATED, "token", "unavailable"),
    (C.PERMISSION_DENIED, "", "unavailable"),
    (C.UNIMPLEMENTED, "", "unavailable"),
    (C.FAILED_PRECONDITION, "", "unavailable"),
    (C.INTERNAL, "the model raised", "unknown"),
    (C.INTERNAL, "Received RST_STREAM with error code 2", "unavailable"),
    (C.UNKNOWN, "", "unknown"),
    (C.DATA_LOSS, "", "unknown"),
    (C.ALREADY_EXISTS, "", "unknown"),
]


@pytest.mark.parametrize(("code", "details", "cause"), CASES)
def test_the_cause_of_a_status(code, details, cause):
    assert cause_of(code, details) == cause


def test_every_status_but_ok_is_known():
    assert {code for code, _, _ in CASES} == set(C) - {C.OK}


def error(code, details="", trailing=()):
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
    )


def test_the_text_of_the_neighbor_is_passed_on_in_one_short_line():
    found = failure("the neighbor n:1", error(C.INTERNAL, "a\n b" + "x" * 2000))
    assert str(found).startswith("the neighbor n:1 answered INTERNAL: a bxxx")
    assert "\n" not in str(found)
    assert len(str(found)) <= 400


def test_pushback_is_a_hint():
    found = failure("n", error(C.UNAVAILABLE, "", [("grpc-retry-pushback-ms", "250")]))
    assert found.retry_after_ns == 250 * MILLISECOND
    assert found.cause == "unavailable"


@pytest.mark.parametrize("value", ["-1", "", "x", "1e3", "9" * 30])
def test_a_pushback_that_is_no_delay_is_none(value):
    assert retry_hint_ns([("grpc-retry-pushback-ms", value)]) is None


def test_retry_info_is_a_hint():
    info = protocol.error_details.RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = 1, 500_000_000
    status = protocol.status.Status(code=8)
    status.details.add().Pack(info)
    assert retry_hint_ns([(DETAILS_KEY, status.SerializeToString())]) == 3 * SECOND // 2


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x1a\x04\x12\x02\xff\xff"])
def test_details_that_cannot_be_read_are_no_hint(value):
    assert retry_hint_ns([(DETAILS_KEY, value)]) is None


def test_without_metadata_there_is_no_hint():
    assert failure("n", error(C.UNAVAILABLE)).retry_after_ns is None
