"""W3C trace contexts: what is read, what is ignored, what is written."""

import re

import pytest

from batcher.telemetry.tracing.context import (
    MAX_MEMBERS,
    MAX_STATE,
    caller_context,
    read_parent,
    read_state,
    with_parent,
    written_parent,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RIGHT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (RIGHT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"01-{TRACE}-{SPAN}-01-what-comes", True),
    ],
)
def test_what_is_right(value, sampled):
    assert read_parent(value) == (int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        RIGHT.upper(),
        RIGHT[:-1],
        f"{RIGHT}-more",
        f"{RIGHT}0",
        f"{RIGHT}\n",
        f" {RIGHT}",
        f"ff-{TRACE}-{SPAN}-01",
        f"0g-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-zz",
        f"00_{TRACE}_{SPAN}_01",
        f"01-{TRACE}-{SPAN}-01.more",
        RIGHT.replace("0af7", "\u0660af7"),
        RIGHT.encode(),
        f"00-{TRACE}-{SPAN}-01-" + "x" * 100_000,
    ],
)
def test_what_is_malformed(value):
    assert read_parent(value) is None


def test_a_parent_that_comes_twice_is_none():
    assert caller_context([("traceparent", RIGHT), ("traceparent", RIGHT)]) is None


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([], ""),
        (["a=1"], "a=1"),
        (["a=1,b=2", "c=3"], "a=1,b=2,c=3"),
        ([" a=1\t, ,b=2,"], "a=1,b=2"),
        (["tenant@vendor=x y"], "tenant@vendor=x y"),
        (["0a@v=x"], "0a@v=x"),
        (["0a=x"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a="], ""),
        (["a=1=2"], ""),
        (["a=ü"], ""),
        (["a=1,a=2"], ""),
        ([b"a=1"], ""),
        ([",".join(f"k{i}=1" for i in range(MAX_MEMBERS))], "..."),
        ([",".join(f"k{i}=1" for i in range(MAX_MEMBERS + 1))], ""),
        (["a=" + "x" * 250, "b=" + "x" * 250], "..."),
        (["a=" + "x" * 250, "b=" + "x" * 250, "c=123456789"], ""),
        (["a=" + "x" * MAX_STATE], ""),
    ],
)
def test_states(values, state):
    found = read_state(values)
    assert found == (",".join(values) if state == "..." else state)


def test_a_malformed_state_leaves_the_parent():
    metadata = [("traceparent", RIGHT), ("tracestate", "!")]
    assert caller_context(metadata) == (int(TRACE, 16), int(SPAN, 16), True, "")


def test_what_is_written_is_read_again():
    text = written_parent(1, 2, sampled=True)
    assert re.fullmatch(r"00-0{31}1-0{15}2-01", text)
    metadata = [("a", "b"), ("traceparent", "old"), ("tracestate", "old=1"), ("a", "c")]
    found = with_parent(metadata, 1, 2, sampled=False, state="new=1")
    assert found == [
        ("a", "b"),
        ("a", "c"),
        ("traceparent", written_parent(1, 2, sampled=False)),
        ("tracestate", "new=1"),
    ]
    assert caller_context(found) == (1, 2, False, "new=1")
    assert ("tracestate", "new=1") not in with_parent([], 1, 2, sampled=True, state="")
