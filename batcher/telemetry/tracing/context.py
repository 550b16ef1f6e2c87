"""The trace context of a request: read from its metadata, and written for the next server.

The headers are those of W3C Trace Context (https://www.w3.org/TR/trace-context/). What does not keep
its rules is ignored, as it asks: a wrong `traceparent` with everything, a wrong `tracestate` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""All metadata of a call, as the transport gives it: names in lower case."""

PARENT: Final = "traceparent"
STATE: Final = "tracestate"

MAX_STATE: Final = 512
"""Characters of a `tracestate` that is kept: what the standard asks to be kept at least."""

MAX_MEMBERS: Final = 32
"""Members of a `tracestate`, as the standard says."""

_PARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?",
    re.ASCII | re.DOTALL,
)
_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_VALUE: Final = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER: Final = re.compile(rf"(?P<key>{_KEY})={_VALUE}", re.ASCII)

SAMPLED: Final = 0x01
"""The one flag of version 00."""


class TraceContext:
    """Which trace a request belongs to, and the ids of its own spans.

    `parent_id` is the caller's span, 0 without one; `sampled` is what the caller or the head sampling
    decided. `execute_id` is the span of the stage `execute`.
    """

    __slots__ = ("execute_id", "parent_id", "sampled", "span_id", "state", "trace_id")

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        execute_id: int,
        *,
        parent_id: int = 0,
        sampled: bool = False,
        state: str = "",
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.execute_id = execute_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.state = state


def read_parent(value: str | bytes) -> tuple[int, int, bool] | None:
    """(trace id, span id, sampled) of a `traceparent`; None if it is malformed."""
    if not isinstance(value, str):
        return None
    match = _PARENT.fullmatch(value)
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    trace_id, span_id = int(match["trace"], 16), int(match["span"], 16)
    if not trace_id or not span_id:
        return None
    return trace_id, span_id, bool(int(match["flags"], 16) & SAMPLED)


def read_state(values: Iterable[str | bytes]) -> str:
    """The members of the `tracestate` headers as one; "" if they are malformed, too long, or not there."""
    members: list[str] = []
    keys: set[str] = set()
    for value in values:
        if not isinstance(value, str) or len(value) > MAX_STATE:
            return ""
        for text in value.split(","):
            member = text.strip(" \t")
            if not member:
                continue
            match = _MEMBER.fullmatch(member)
            if match is None or match["key"] in keys:
                return ""
            keys.add(match["key"])
            members.append(member)
    state = ",".join(members)
    return state if len(members) <= MAX_MEMBERS and len(state) <= MAX_STATE else ""


def caller_context(metadata: Metadata) -> tuple[int, int, bool, str] | None:
    """(trace id, span id, sampled, tracestate) of the caller; None without a `traceparent`, or with a wrong one."""
    found = [value for name, value in metadata if name == PARENT]
    if len(found) != 1:
        return None
    parent = read_parent(found[0])
    if parent is None:
        return None
    return *parent, read_state(value for name, value in metadata if name == STATE)


def written_parent(trace_id: int, span_id: int, *, sampled: bool) -> str:
    """The `traceparent` for a server that is called from the span."""
    return f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}"


def with_parent(
    metadata: Metadata, trace_id: int, span_id: int, *, sampled: bool, state: str
) -> list[tuple[str, str | bytes]]:
    """The metadata with this trace context in place of what it had."""
    kept = [item for item in metadata if item[0] not in {PARENT, STATE}]
    kept.append((PARENT, written_parent(trace_id, span_id, sampled=sampled)))
    if state:
        kept.append((STATE, state))
    return kept
