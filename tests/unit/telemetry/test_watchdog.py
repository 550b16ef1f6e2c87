"""Who held up the event loop. Times are those of a clock that the tests turn."""

import asyncio
import logging
import threading

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.telemetry import watchdog
from batcher.telemetry.watchdog import FRAMES, LoopWatchdog, place_of


@pytest.fixture
async def stalls():
    """The stalls that were told, as a queue."""
    return asyncio.Queue()


@pytest.fixture
async def watching(stalls, clock, monkeypatch):
    """A watchdog that asks when it is told to, and the time that nobody scheduled the loop."""
    unscheduled = [0]
    monkeypatch.setattr(LoopWatchdog, "_unscheduled_ns", lambda _: unscheduled[0])
    return LoopWatchdog(stalls.put_nowait, clock=clock), unscheduled


async def held(watchdog_, hold):
    """Have the watchdog ask once, while `hold` keeps the loop from turning until it has looked."""
    looked = threading.Event()
    real = watchdog.place_of

    def look(thread):
        place = real(thread)
        looked.set()
        return place

    watchdog.place_of, asking = look, asyncio.to_thread(watchdog_._ask)
    try:
        task = asyncio.ensure_future(asking)
        await asyncio.sleep(0)
        hold(looked)
        await task
    finally:
        watchdog.place_of = real


async def test_a_loop_that_turns_is_no_stall(watching, stalls, caplog):
    dog, _ = watching

    await asyncio.to_thread(dog._ask)

    assert stalls.empty()
    assert not caplog.records


async def test_what_held_it_up_is_logged_and_told(watching, stalls, clock, caplog):
    dog, _ = watching

    def a_long_turn(looked):
        assert looked.wait(20)
        clock.advance(120 * MILLISECOND)

    await held(dog, a_long_turn)

    assert await stalls.get() == 0.12
    (line,) = caplog.messages
    assert line.startswith("the event loop was held up for 120 ms: wait (threading.py:")
    assert "a_long_turn (test_watchdog.py:" in line


async def test_a_thread_that_nobody_ran_held_up_nobody(watching, stalls, clock, caplog):
    dog, unscheduled = watching

    def paused(looked):
        assert looked.wait(20)
        clock.advance(120 * MILLISECOND)
        unscheduled[0] += 80 * MILLISECOND

    await held(dog, paused)

    assert stalls.empty()
    assert not caplog.records


async def test_the_log_is_told_now_and_then_and_all_are_counted(watching, stalls, clock, caplog):
    dog, _ = watching

    def a_long_turn(looked):
        assert looked.wait(20)
        clock.advance(100 * MILLISECOND)

    for _ in range(3):
        await held(dog, a_long_turn)
    clock.advance(10 * SECOND)
    await held(dog, a_long_turn)

    assert [await stalls.get() for _ in range(4)] == [0.1] * 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "100 ms (2 more since the last time): wait" in caplog.messages[1]


async def test_it_starts_and_ends_on_a_real_loop(stalls):
    dog = LoopWatchdog(stalls.put_nowait)
    dog.start()
    dog.close()
    await asyncio.to_thread(dog._thread.join)

    assert not dog._thread.is_alive()


@pytest.mark.parametrize("says", ["12 345 6", "", "12 x"])
async def test_how_long_a_thread_waited_is_the_kernels_word(stalls, tmp_path, monkeypatch, says):
    dog = LoopWatchdog(stalls.put_nowait)
    (tmp_path / "schedstat").write_text(says)
    dog._schedstat = tmp_path / "schedstat"
    told = asyncio.Event()
    found = []

    def ask():
        found.append(dog._unscheduled_ns())
        dog.close()
        dog._loop.call_soon_threadsafe(told.set)

    monkeypatch.setattr(dog, "_ask", ask)
    dog.start()
    await told.wait()
    await asyncio.to_thread(dog._thread.join)

    assert found == [345 if says == "12 345 6" else 0]
    assert dog._file == -1


async def test_where_nobody_says_nothing_is_taken_off(stalls):
    assert LoopWatchdog(stalls.put_nowait)._unscheduled_ns() == 0


def test_a_place_is_bounded():
    def deeper(left):
        return deeper(left - 1) if left else place_of(threading.get_ident())

    assert deeper(50).count(" < ") == FRAMES - 1


def test_a_thread_that_has_ended_is_nowhere():
    assert place_of(-1) == ""
