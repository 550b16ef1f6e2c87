"""HTTP statuses as causes."""

import pytest

from batcher.clock import SECOND
from batcher.executors.http.statuses import cause_of, failure, reason, retry_after_ns


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (400, "input"),
        (413, "input"),
        (422, "input"),
        (429, "overloaded"),
        (503, "unavailable"),
        (502, "unavailable"),
        (504, "unavailable"),
        (408, "unavailable"),
        (302, "unavailable"),
        (401, "unavailable"),
        (404, "unavailable"),
        (204, "unavailable"),
        (500, "unknown"),
        (501, "unknown"),
    ],
)
def test_the_cause_of_a_status(status, cause):
    assert cause_of(status) == cause


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3),
        (" 3 ", 3),
        ("-3", None),
        ("\u0663", None),
        ("soon", None),
        ("9" * 12, None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 10),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_the_hint_of_retry_after(value, seconds):
    assert retry_after_ns(value, 90.0) == (None if seconds is None else seconds * SECOND)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "no\\n model"}', "no model"),
        (b'{"detail": {"x": 1}}', "{'x': 1}"),
        (b'{"error": "", "message": "m"}', "m"),
        (b"plain", "plain"),
        (b"<html><body>x", ""),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 2000, "[" * 397 + "..."),
    ],
)
def test_what_an_error_says(body, said):
    assert reason(body) == said


def test_a_failure_has_all_of_it():
    error = failure("the neighbor u", 429, {"Retry-After": "2"}, b'{"error": "full"}', 0.0)
    assert (str(error), error.cause, error.retry_after_ns) == (
        "the neighbor u answered HTTP 429: full",
        "overloaded",
        2 * SECOND,
    )
