"""The budget of frames that a client may send beside its requests."""

import pytest
from raw_http2 import (
    LIMITS,
    TRAILERS,
    Harness,
    data,
    numbers,
    opening,
    reset,
    settings,
    window_update,
)

from batcher.http2.sansio.budget import (
    FRAMES_PER_DATA_FRAME,
    FRAMES_PER_SECOND,
    FRAMES_PER_STREAM,
    MAX_SAVED_FRAMES,
    MIN_DATA_BYTES,
    MIN_RESETS,
    SETTINGS_PER_SECOND,
)
from batcher.http2.sansio.connection import MAX_REASON_BYTES
from batcher.http2.sansio.frames import ACK, END_STREAM, PADDED, Error, Frame, Setting, frame
from batcher.http2.sansio.streams import ConnectionCounters, Limits

FRAMES = {
    "ping": frame(Frame.PING, 0, 0, bytes(8)),
    "an answer to a ping": frame(Frame.PING, ACK, 0, bytes(8)),
    "acknowledged settings": frame(Frame.SETTINGS, ACK, 0),
    "the connection's window": window_update(0, 1),
    "a stream's window": window_update(1, 1),
    "the window of a stream that has ended": window_update(3, 1),
    "a reset of a stream that has ended": reset(3),
    "data without data": data(1, b""),
    "padding alone": data(1, b"\x01\x00", PADDED),
    "a priority": frame(Frame.PRIORITY, 0, 7, bytes(5)),
    "unknown to the connection": frame(0xEE, 0, 0, b"?"),
    "unknown to a stream": frame(0xEE, 0, 1, b"?"),
    "trailers of a stream that was refused": opening(9, END_STREAM, TRAILERS),
    "a farewell": frame(Frame.GOAWAY, 0, 0, bytes(8)),
}


def still_open(harness):
    return not harness.connection.closing


@pytest.fixture
def opened():
    """Stream 1 is open, 3 has ended, 9 was refused."""
    harness = Harness(limits=Limits(max_streams=2, max_headers=1000, stream_window=100_000))
    harness.open(1, 0)
    harness.answer(harness.open(3), b"")
    harness.open(5, 0)
    harness.receive(opening(9))
    harness.written()
    return harness


@pytest.mark.parametrize("flood", FRAMES.values(), ids=FRAMES)
def test_a_flood_ends_the_connection(opened, flood):
    left = opened.connection.budget.frames
    opened.receive(flood * left)
    assert still_open(opened)
    opened.receive(flood)
    assert opened.failed(9) is Error.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("flood", FRAMES.values(), ids=FRAMES)
def test_frames_at_the_base_rate_do_not(opened, flood):
    for _ in range(200):
        opened.receive(flood * FRAMES_PER_SECOND)
        opened.connection.budget.refill()
    assert still_open(opened)


def test_earned_frames_are_kept_up_to_a_bound(harness):
    budget = harness.connection.budget
    for number in range(1, 4 * MAX_SAVED_FRAMES // FRAMES_PER_STREAM, 2):
        harness.connection.release(harness.open(number))
    assert budget.frames > MAX_SAVED_FRAMES
    budget.refill()
    assert budget.frames == MAX_SAVED_FRAMES


def test_unused_base_rates_are_not_kept(harness):
    budget = harness.connection.budget
    for _ in range(100):
        budget.refill()
    assert budget.frames == FRAMES_PER_SECOND
    assert budget.half_resets == 2 * MIN_RESETS


def test_frames_for_a_client_that_does_not_read_are_bounded(harness):
    harness.receive(frame(Frame.PING, 0, 0, bytes(8)) * (10 * FRAMES_PER_SECOND))
    assert harness.connection.frames_to_send <= FRAMES_PER_SECOND + 1


def test_refused_streams_earn_frames_too(harness):
    """Frames that were on their way behind them are no flood."""
    for number in range(1, 2 * LIMITS.max_streams, 2):
        harness.open(number)
    for number in range(101, 101 + MIN_RESETS, 2):
        harness.receive(opening(number), window_update(number, 1), data(number, b""), reset(number))
    assert still_open(harness)


def test_settings_may_be_sent_at_their_rate(harness):
    for _ in range(SETTINGS_PER_SECOND - 1):  # the first came with the preface
        assert harness.receive(settings()) == []
    harness.connection.budget.refill()
    harness.receive(settings() * SETTINGS_PER_SECOND)
    assert still_open(harness)
    harness.receive(settings())
    assert harness.failed() is Error.ENHANCE_YOUR_CALM


class TestHonestClients:
    def test_window_updates_with_each_small_answer(self, harness):
        """A naive client opens both windows with each frame, and pings as often."""
        stream = harness.open()
        for _ in range(50 * FRAMES_PER_SECOND):
            harness.connection.send_data(stream, b"x")
            harness.receive(
                window_update(1, 1), window_update(0, 1), frame(Frame.PING, 0, 0, bytes(8))
            )
        assert still_open(harness)
        assert FRAMES_PER_DATA_FRAME > 3

    def test_window_updates_with_each_part_of_a_large_answer(self, harness):
        stream = harness.open()
        harness.connection.send_data(stream, bytes(MIN_DATA_BYTES * 50 * FRAMES_PER_SECOND))
        while stream.outbox:
            harness.receive(window_update(1, MIN_DATA_BYTES), window_update(0, MIN_DATA_BYTES))
            harness.connection.data_to_send()
        assert still_open(harness)

    def test_streams_with_priorities_and_late_resets(self, harness):
        """Some clients open the window of each stream, give it a priority, and reset it late."""
        for number in range(1, 100 * FRAMES_PER_SECOND, 2):
            stream = harness.open(number)
            harness.receive(window_update(number, 1), frame(Frame.PRIORITY, 0, number, bytes(5)))
            harness.answer(stream, b"")
            harness.connection.release(stream)
            harness.receive(reset(number))
        assert still_open(harness)
        assert FRAMES_PER_STREAM > 3
        assert harness.connection.counters == ConnectionCounters()

    @pytest.mark.parametrize("calls", [MIN_RESETS, 4096])
    def test_all_calls_may_be_cancelled_at_once(self, calls):
        harness = Harness(limits=Limits(max_streams=calls, max_headers=1000, stream_window=100_000))
        first = 1
        for _ in range(3):
            numbers_of = range(first, first + 2 * calls, 2)
            streams = [harness.open(number) for number in numbers_of]
            harness.receive(*[reset(number) for number in numbers_of])
            for stream in streams:
                harness.connection.release(stream)
            first += 2 * calls
            for _ in range(4):
                harness.connection.budget.refill()
        assert still_open(harness)
        assert harness.connection.counters == ConnectionCounters(resets_received=3 * calls)

    def test_every_second_call_may_be_cancelled_for_ever(self, harness):
        for number in range(1, 20 * MIN_RESETS, 4):
            harness.connection.release(harness.open(number))
            stream = harness.open(number + 2)
            harness.receive(reset(number + 2))
            harness.connection.release(stream)
        assert still_open(harness)


def test_a_window_that_is_opened_byte_by_byte_ends_the_connection():
    """Each byte costs a frame in and one out (CVE-2019-9511)."""
    harness = Harness((Setting.INITIAL_WINDOW_SIZE, 0))
    harness.connection.send_data(harness.open(), bytes(100_000))
    sent = 0
    while still_open(harness):
        harness.receive(window_update(1, 1))
        sent += 1
    assert FRAMES_PER_SECOND < sent <= FRAMES_PER_SECOND + FRAMES_PER_STREAM + 1
    assert harness.connection.error is Error.ENHANCE_YOUR_CALM


class TestStreamsThatEndEarly:
    """Rapid reset (CVE-2023-44487), and attacks like it."""

    def test_rapid_resets_end_the_connection(self, harness):
        for count in range(10 * MIN_RESETS):
            events = harness.receive(opening(2 * count + 1), reset(2 * count + 1))
            if events == []:
                break
            harness.connection.release(events[0].stream)
        assert 2 * MIN_RESETS <= count <= 2 * MIN_RESETS + 1
        assert harness.connection.error is Error.ENHANCE_YOUR_CALM

    def test_so_do_streams_beyond_the_limit(self, harness):
        for number in range(1, 2 * LIMITS.max_streams, 2):
            harness.open(number)
        for count in range(10 * MIN_RESETS):
            harness.receive(opening(2 * count + 101))
            if harness.connection.closing:
                break
        assert MIN_RESETS <= count <= MIN_RESETS + 10
        assert harness.connection.error is Error.ENHANCE_YOUR_CALM

    def test_so_does_data_for_streams_that_have_ended(self, harness):
        for count in range(10 * MIN_RESETS):
            number = 2 * count + 1
            harness.connection.send_trailers(harness.open(number), TRAILERS)
            harness.connection.release(harness.connection.streams[number])
            harness.receive(data(number, b"x"))
            if harness.connection.closing:
                break
        assert harness.connection.error is Error.ENHANCE_YOUR_CALM


def test_a_reason_is_cut(harness):
    harness.connection.close(Error.INTERNAL_ERROR, "why" * 100_000)
    ((_, _, _, payload),) = harness.written()
    assert payload[:8] == numbers(0, Error.INTERNAL_ERROR)
    assert len(payload) == 8 + MAX_REASON_BYTES
