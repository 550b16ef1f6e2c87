"""What an HTTP status of a neighbor means for the batch: the cause of an `ExecutionError`.

| status | cause | why |
|---|---|---|
| 400, 413, 415, 422 | `input` | some row is wrong, or the batch is too large: bisection finds out |
| 429 | `overloaded` | no room; not executed |
| 408, 502, 503, 504 | `unavailable` | not there, draining, or a proxy could not reach it |
| other 4xx, and 3xx | `unavailable` | the neighbor refuses all alike: a wrong path, name or credential |
| other 5xx | `unknown` | the model may have failed on a row |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from batcher.clock import SECOND
from batcher.errors import on_one_line
from batcher.executor import ExecutionError

__all__ = ["cause_of", "failure", "retry_after_ns"]

_INPUT: Final = frozenset({400, 413, 415, 422})
_UNAVAILABLE: Final = frozenset({408, 502, 503, 504})

_SHOWN: Final = 2_000
"""Bytes of an error's body that are looked at for its reason."""


def cause_of(status: int) -> str:
    """The cause that a status other than 200 is."""
    if status in _INPUT:
        return "input"
    if status == 429:
        return "overloaded"
    if status < 500 or status in _UNAVAILABLE:
        return "unavailable"
    return "unknown"


def failure(
    neighbor: str, status: int, headers: Mapping[str, str], body: bytes, now_s: float
) -> ExecutionError:
    """The `ExecutionError` for an answer whose status is not 200; `now_s` is the wall clock's time."""
    said = reason(body)
    text = f"{neighbor} answered HTTP {status}{f': {said}' if said else ''}"
    cause = cause_of(status)
    hint_ns = retry_after_ns(headers.get("Retry-After"), now_s)
    return ExecutionError(on_one_line(text), cause=cause, retry_after_ns=hint_ns)


def reason(body: bytes) -> str:
    """What the body of an error says: its member `error`, `detail` or `message`, else its text."""
    text = body[:_SHOWN].decode(errors="replace")
    try:
        found = json.loads(body) if len(body) <= _SHOWN else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        for key in ("error", "detail", "message"):
            if found.get(key):
                return on_one_line(str(found[key]))
    return "" if text.lstrip().startswith("<") else on_one_line(text)


def retry_after_ns(value: str | None, now_s: float) -> int | None:
    """The nanoseconds that a `Retry-After` asks for: seconds, or a date. None if it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return int(value) * SECOND
    try:
        at_s = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0, round((at_s - now_s) * SECOND))
