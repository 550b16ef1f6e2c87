"""What a child writes becomes lines, however much and whatever it is."""

import asyncio
import os

import pytest

from batcher.executors.isolated.output import LAST_LINES, MAX_LINE, MAX_LINES, OutputLines


@pytest.fixture
async def pipe():
    """The lines that were read, and the end to write to."""
    read, write = os.pipe()
    lines = []
    output = OutputLines(read, asyncio.get_running_loop(), lines.append)
    with os.fdopen(write, "wb", buffering=0) as end:
        yield output, lines, end
        output.close()


async def read_of(pipe, data):
    output, lines, end = pipe
    end.write(data)
    output._read()
    return lines


async def test_bytes_that_are_no_text_are_shown_as_escapes(pipe):
    assert await read_of(pipe, b"caf\xc3\xa9 \xff\n") == [r"café \xff"]


async def test_a_flood_of_short_lines_is_cut(pipe):
    lines = await read_of(pipe, b"".join(b"%d\n" % number for number in range(5000)))
    assert len(lines) == MAX_LINES + 1
    assert lines[0] == "0"
    assert lines[-1] == "4999"
    assert f"({5000 - MAX_LINES} lines left out)" in lines
    assert pipe[0].last[-1] == "4999"
    assert len(pipe[0].last) == LAST_LINES


async def test_a_line_without_an_end_is_cut_in_pieces(pipe):
    lines = await read_of(pipe, b"x" * (2 * MAX_LINE + 10))
    assert [len(line) for line in lines] == [MAX_LINE, MAX_LINE]
