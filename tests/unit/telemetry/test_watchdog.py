"""What blocked the event loop. Times are those of a clock that the tests advance."""

import asyncio
import logging
import threading

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.telemetry import watchdog
from batcher.telemetry.watchdog import FRAMES, LoopWatchdog, stack_of


@pytest.fixture
async def stalls():
    """The stalls that were reported, as a queue."""
    return asyncio.Queue()


@pytest.fixture
async def watching(stalls, clock, monkeypatch):
    """A watchdog that checks when the test says so, and the time that the loop was not scheduled."""
    unscheduled = [0]
    monkeypatch.setattr(LoopWatchdog, "_unscheduled_ns", lambda _: unscheduled[0])
    return LoopWatchdog(stalls.put_nowait, clock=clock), unscheduled


async def blocked(watchdog_, block):
    """Have the watchdog check once, while `block` blocks the loop until it has taken the stack."""
    looked = threading.Event()
    real = watchdog.stack_of

    def look(thread):
        stack = real(thread)
        looked.set()
        return stack

    watchdog.stack_of, checking = look, asyncio.to_thread(watchdog_._check)
    try:
        task = asyncio.ensure_future(checking)
        await asyncio.sleep(0)
        block(looked)
        await task
    finally:
        watchdog.stack_of = real


async def test_a_loop_that_runs_is_no_stall(watching, stalls, caplog):
    dog, _ = watching

    await asyncio.to_thread(dog._check)

    assert stalls.empty()
    assert not caplog.records


async def test_what_blocked_it_is_logged_and_reported(watching, stalls, clock, caplog):
    dog, _ = watching

    def a_long_callback(looked):
        assert looked.wait(20)
        clock.advance(120 * MILLISECOND)

    await blocked(dog, a_long_callback)

    assert await stalls.get() == 0.12
    (line,) = caplog.messages
    assert line.startswith(
        "the event loop was blocked for 120 ms, which delays every request, in: wait (threading.py:"
    )
    assert "a_long_callback (test_watchdog.py:" in line


async def test_time_in_which_the_thread_was_not_scheduled_is_no_stall(
    watching, stalls, clock, caplog
):
    dog, unscheduled = watching

    def paused(looked):
        assert looked.wait(20)
        clock.advance(120 * MILLISECOND)
        unscheduled[0] += 80 * MILLISECOND

    await blocked(dog, paused)

    assert stalls.empty()
    assert not caplog.records


async def test_log_lines_are_limited_and_all_stalls_are_counted(watching, stalls, clock, caplog):
    dog, _ = watching

    def a_long_callback(looked):
        assert looked.wait(20)
        clock.advance(100 * MILLISECOND)

    for _ in range(3):
        await blocked(dog, a_long_callback)
    clock.advance(10 * SECOND)
    await blocked(dog, a_long_callback)

    assert [await stalls.get() for _ in range(4)] == [0.1] * 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert (
        "100 ms (2 more stalls since the last line), which delays every request, in: wait"
        in caplog.messages[1]
    )


async def test_it_starts_and_ends_on_a_real_loop(stalls):
    dog = LoopWatchdog(stalls.put_nowait)
    dog.start()
    dog.close()
    await asyncio.to_thread(dog._thread.join)

    assert not dog._thread.is_alive()


@pytest.mark.parametrize("says", ["12 345 6", "", "12 x"])
async def test_how_long_a_thread_waited_comes_from_the_kernel(stalls, tmp_path, monkeypatch, says):
    dog = LoopWatchdog(stalls.put_nowait)
    (tmp_path / "schedstat").write_text(says)
    dog._schedstat = tmp_path / "schedstat"
    checked = asyncio.Event()
    found = []

    def check():
        found.append(dog._unscheduled_ns())
        dog.close()
        dog._loop.call_soon_threadsafe(checked.set)

    monkeypatch.setattr(dog, "_check", check)
    dog.start()
    await checked.wait()
    await asyncio.to_thread(dog._thread.join)

    assert found == [345 if says == "12 345 6" else 0]
    assert dog._file == -1


async def test_without_schedstat_nothing_is_subtracted(stalls):
    assert LoopWatchdog(stalls.put_nowait)._unscheduled_ns() == 0


def test_a_stack_is_bounded():
    def deeper(left):
        return deeper(left - 1) if left else stack_of(threading.get_ident())

    assert deeper(50).count(" < ") == FRAMES - 1


def test_a_thread_that_has_ended_has_no_stack():
    assert stack_of(-1) == ""
