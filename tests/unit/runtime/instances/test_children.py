"""What a child process writes reaches the log, escaped and bounded."""

import logging

import pytest

from batcher.clock import SECOND
from batcher.runtime.instances.abandoned import AbandonedThreads
from batcher.runtime.instances.children import (
    BURST_LINES,
    LINES_PER_SECOND,
    ChildOutput,
    escaped,
)
from batcher.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def test_a_line_has_the_instance_and_the_stream(clock, caplog):
    with caplog.at_level(logging.INFO):
        ChildOutput("m/1#0", clock).line("stderr", "loaded weights")
    assert caplog.messages == ["m/1#0: stderr: loaded weights"]


def test_what_is_not_printable_is_escaped():
    assert escaped("plain é 模 text") == "plain é 模 text"
    assert escaped("a\x1b[31m\nred\x00\ud800\t") == r"a\x1b[31m\nred\x00\ud800" + "\t"


def test_a_flood_is_cut_and_counted(clock, caplog):
    output = ChildOutput("m/1#0", clock)
    with caplog.at_level(logging.INFO):
        for number in range(BURST_LINES + 1000):
            output.line("stdout", str(number))
        assert len(caplog.messages) == BURST_LINES
        clock.advance(SECOND)
        for number in range(1000):
            output.line("stdout", str(number))
    told = [message for message in caplog.messages if "left out" in message]
    assert len(told) == 1
    assert "1000 lines" in told[0]
    assert len(caplog.messages) == BURST_LINES + 1 + LINES_PER_SECOND
    with caplog.at_level(logging.INFO):
        output.tell_dropped()
    assert f"{1000 - LINES_PER_SECOND} lines" in caplog.messages[-1]


class Worker:
    hangs = True


def test_abandoned_threads_count_until_they_return():
    abandoned, first, second = AbandonedThreads(), Worker(), Worker()
    for worker in (first, second):
        abandoned.add("m", "1", worker)
    assert abandoned.count("m", "1") == 2
    assert abandoned.count("m", "2") == 0
    first.hangs = False
    assert abandoned.count("m", "1") == 1
    second.hangs = False
    assert abandoned.count("m", "1") == 0
    abandoned.add("m", "1", first)
    assert abandoned.count("m", "1") == 0
