import asyncio
import threading

import pytest

from batcher.core.events import ModelConfigured, RequestArrived, RequestCancelled
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings, NoBatching
from batcher.journal import read_log
from batcher.journal.recorder import BLOCK, MAX_WAITING_STEPS, Recorder
from batcher.simulation.logs.replay import replay


@pytest.fixture
def start(sink):
    """A function that starts a recorder of a scheduler; closed at the end."""
    started = []

    def start(scheduler=None, sinks=None, **options):
        scheduler = scheduler or Scheduler()
        options = {"segment_ns": 10_000, "most_bytes": 1 << 30} | options
        recorder = Recorder(scheduler.snapshot, sinks or [sink], clock=lambda: 0, **options)
        started.append(recorder)
        return recorder

    yield start
    for recorder in started:
        recorder.close()


def step(recorder, scheduler, now_ns, *events):
    recorder.record(now_ns, events, scheduler.handle(events, now_ns))


def arrival(number, now_ns):
    return RequestArrived(number, "missing", 1, 0, (), "", now_ns)


def read(sink, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(sink.log)
    return read_log(path)


def test_every_step_is_recorded_in_order(start, sink, tmp_path):
    scheduler = Scheduler()
    recorder = start(scheduler)
    for number in range(5 * BLOCK):
        step(recorder, scheduler, number, arrival(number, number))
    step(recorder, scheduler, 700)
    recorder.mark().result(10)
    (segment,) = read(sink, tmp_path).segments
    steps = list(segment.steps())
    assert [s.now_ns for s in steps] == [*range(5 * BLOCK), 700]
    assert steps[-1].events == []
    assert steps[3].commands[0].ids == (3,)
    assert segment.requests == 5 * BLOCK


def test_a_segment_ends_with_the_step_that_passes_its_time(start, sink, tmp_path):
    scheduler = Scheduler()
    recorder = start(scheduler)
    for now_ns in (1, 9_999, 10_000, 10_001, 20_000):
        step(recorder, scheduler, now_ns, arrival(now_ns, now_ns))
    recorder.close()
    log = read(sink, tmp_path)
    assert [[s.now_ns for s in segment.steps()] for segment in log.segments] == [
        [1, 9_999, 10_000],
        [10_001, 20_000],
        [],
    ]
    assert [segment.opening.now_ns for segment in log.segments] == [0, 10_000, 20_000]
    assert all(segment.complete for segment in log.segments)
    assert replay(log.segments).first is None
    assert sink.closed


def test_a_segment_ends_when_it_is_too_large(start, sink, tmp_path):
    scheduler = Scheduler()
    recorder = start(scheduler, segment_ns=1 << 60, most_bytes=20_000)
    for number in range(4000):
        step(recorder, scheduler, number, arrival(number, number))
        if number % 100 == 0:
            recorder.mark().result(10)
    recorder.mark().result(10)
    log = read(sink, tmp_path)
    assert len(log.segments) > 3
    assert max(len(b"".join(parts[1:])) for parts in sink.segments) < 40_000
    assert replay(log.segments).first is None


class Stuck:
    """A sink that does not come back until it is told to."""

    def __init__(self, sink):
        self.free = threading.Event()
        self.reached = threading.Event()
        self._sink = sink

    def begin(self, now_ns, opening):
        self._sink.begin(now_ns, opening)

    def add(self, frame):
        self.reached.set()
        self.free.wait(30)
        self._sink.add(frame)

    def close(self):
        pass


@pytest.mark.slow
def test_a_recorder_that_is_behind_loses_a_stretch_and_what_follows_replays(
    start, sink, tmp_path, caplog
):
    scheduler = Scheduler()
    stuck = Stuck(sink)
    recorder = start(scheduler, sinks=[stuck], segment_ns=1 << 60)
    step(recorder, scheduler, 0, arrival(0, 0))
    assert stuck.reached.wait(10)
    for number in range(1, MAX_WAITING_STEPS + 500):
        step(recorder, scheduler, number, arrival(number, number))
    assert len(recorder._buffer) <= MAX_WAITING_STEPS + 2
    assert recorder.lost_segments == 1
    stuck.free.set()
    recorder.mark().result(30)
    for number in range(100_000, 100_010):
        step(recorder, scheduler, number, arrival(number, number))
    recorder.close()
    log = read(sink, tmp_path)
    assert len(log.segments) == 2
    assert any("steps after it were dropped" in fault for fault in log.faults)
    assert not log.segments[0].complete
    assert not log.segments[1].follows(log.segments[0])
    assert replay(log.segments).first is None
    assert log.segments[1].requests == 9  # the first of them found that there was room again
    assert sum("the event log is behind" in r.message for r in caplog.records) == 1


def test_a_step_that_cannot_be_recorded_ends_its_segment(start, sink, tmp_path, caplog):
    scheduler = Scheduler()
    recorder = start(scheduler)
    step(recorder, scheduler, 1, arrival(1, 1))
    recorder.record(2, [RequestCancelled(object(), "cancelled")], [])
    recorder.mark().result(10)
    step(recorder, scheduler, 3, arrival(3, 3))  # asked to end the segment with it
    step(recorder, scheduler, 4, arrival(4, 4))
    recorder.close()
    log = read(sink, tmp_path)
    assert [[s.now_ns for s in segment.steps()] for segment in log.segments] == [[1], [4]]
    assert recorder.lost_segments == 1
    assert "its segment ends there" in caplog.text


def test_a_wait_for_a_mark_can_be_cancelled(start, sink, tmp_path):
    scheduler = Scheduler()
    recorder = start(scheduler)

    async def leave():
        waiting = asyncio.wrap_future(recorder.mark())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    step(recorder, scheduler, 1, arrival(1, 1))
    asyncio.run(leave())
    assert not recorder.mark().cancel()
    step(recorder, scheduler, 2, arrival(2, 2))
    recorder.mark().result(10)
    assert recorder._thread.is_alive()
    (segment,) = read(sink, tmp_path).segments
    assert [s.now_ns for s in segment.steps()] == [1, 2]
    assert recorder.lost_segments == 0


def test_an_unexpected_failure_costs_a_segment_and_not_the_recorder(
    start, sink, tmp_path, caplog, monkeypatch
):
    scheduler = Scheduler()
    recorder = start(scheduler)
    step(recorder, scheduler, 1, arrival(1, 1))
    recorder.mark().result(10)
    with monkeypatch.context() as patch:
        patch.setattr(sink, "add", lambda frame: 1 / 0)
        step(recorder, scheduler, 2, arrival(2, 2))
        recorder.mark().result(10)  # told, though what it waited for is lost
    step(recorder, scheduler, 10_000, arrival(3, 10_000))
    step(recorder, scheduler, 10_001, arrival(4, 10_001))
    recorder.close()
    log = read(sink, tmp_path)
    assert [[s.now_ns for s in segment.steps()] for segment in log.segments] == [[1], [10_001]]
    assert any("it has no end" in fault for fault in log.faults)
    assert replay(log.segments).first is None
    assert recorder.lost_segments == 1
    assert "ZeroDivisionError" in caplog.text


def test_the_settings_of_models_and_the_scheduler_are_in_each_opening(start, sink, tmp_path):
    scheduler = Scheduler()
    recorder = start(scheduler, models=lambda: {"m/1": {"batching": {"policy": "none"}}})
    step(recorder, scheduler, 20_000)
    recorder.close()
    one, two = read(sink, tmp_path).segments
    assert one.opening.models == two.opening.models == {"m/1": {"batching": {"policy": "none"}}}
    assert len(one.opening.scheduler) == 16


def test_each_opening_has_the_settings_that_are_in_force(start, sink, tmp_path):
    scheduler = Scheduler()
    began = {"batching": {"policy": "none", "max_batch_size": 4}, "queue": {}}
    recorder = start(scheduler, models=lambda: {"m/1": began})
    step(recorder, scheduler, 1, ModelConfigured("m/1", ModelSettings(4, NoBatching())))
    step(recorder, scheduler, 10_000)
    step(recorder, scheduler, 10_001, ModelConfigured("m/1", ModelSettings(2, NoBatching())))
    step(recorder, scheduler, 20_000)
    recorder.close()
    openings = [segment.opening.models["m/1"] for segment in read(sink, tmp_path).segments]
    assert openings == [
        began,
        began,
        {"batching": {"policy": "none", "max_batch_size": 2}, "queue": {}},
    ]
