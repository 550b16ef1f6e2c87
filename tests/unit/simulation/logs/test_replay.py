import pytest
from hypothesis import HealthCheck, given, settings

from batcher.clock import MILLISECOND
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.journal import read_log
from batcher.journal.recorder import Recorder
from batcher.journal.segment_files import SegmentFiles
from batcher.simulation import Driver
from batcher.simulation.logs.replay import replay
from batcher.testing.recording import RecordedScheduler
from batcher.testing.strategies import timelines


@pytest.fixture
def folder(tmp_path):
    """An empty folder at each call."""
    made = iter(range(1_000_000))

    def folder():
        path = tmp_path / f"log{next(made)}"
        path.mkdir()
        return path

    return folder


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(timelines())
def test_any_log_replays_from_every_segment(folder, story):
    path = folder()
    with RecordedScheduler(path, segment_ns=7 * MILLISECOND) as scheduler:
        Driver(scheduler, lambda dispatch: 2 * MILLISECOND).run(story)
    log = read_log(path)
    assert log.faults == []
    for place in range(len(log.segments)):
        found = replay(log.segments[place:])
        assert found.first is None
        assert found.faults == []
        assert found.steps == sum(s.steps_count for s in log.segments[place:])


class Liar(Scheduler):
    """Records other commands than its own, now and then."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def handle(self, events, now_ns):
        commands = super().handle(events, now_ns)
        return [] if now_ns == self.at else commands


def arrivals(count):
    settings = ModelSettings(4, FixedWindow())
    yield 0, ModelConfigured("m", settings)
    for number in range(count):
        yield number * 1000, RequestArrived(number, "m", 9, 0, (), "", number * 1000)


def lied(path, at):
    scheduler = Liar(at)
    recorder = Recorder(
        scheduler.snapshot,
        [SegmentFiles(path, 100, 1 << 40)],
        segment_ns=10_000,
        most_bytes=1 << 40,
        clock=lambda: 0,
    )
    for now_ns, event in arrivals(40):
        recorder.record(now_ns, [event], scheduler.handle([event], now_ns))
    recorder.close()
    return read_log(path)


def test_the_first_difference_is_named(folder):
    log = lied(folder(), 23_000)
    found = replay(log.segments)
    first = found.first
    assert found.differing == 1
    assert first.segment.startswith("segment 2 (journal-")
    assert (first.step, first.now_ns, first.what) == (2, 23_000, "commands")
    assert first.expected == []
    assert first.got[0].ids == (23,)
    # It went on from the next segment's own beginning.
    assert found.segments == len(log.segments)


def test_a_state_that_was_not_reached_is_a_difference(folder):
    path = folder()
    scheduler = Scheduler()
    states = iter([scheduler.snapshot()] * 2)
    recorder = Recorder(
        lambda: next(states),
        [SegmentFiles(path, 100, 1 << 40)],
        segment_ns=2_500,
        most_bytes=1 << 40,
        clock=lambda: 0,
    )
    for now_ns, event in list(arrivals(3)):
        recorder.record(now_ns, [event], scheduler.handle([event], now_ns))
        if now_ns == 2_000:
            recorder._ends_ns = 0
    recorder.record(2_100, [], scheduler.handle([], 2_100))
    recorder.close()
    found = replay(read_log(path).segments)
    assert found.first.what == "state"
    assert found.first.expected.models == ()
    assert found.first.got.models[0].model == "m"


def test_a_replay_ends_at_the_given_time(folder):
    path = folder()
    with RecordedScheduler(path, segment_ns=10_000) as scheduler:
        Driver(scheduler, lambda dispatch: 1000).run(arrivals(40))
    found = replay(read_log(path).segments, until_ns=15_000)
    assert (found.segments, found.steps) == (2, 16)


def test_a_state_that_this_version_cannot_use_is_a_fault(folder, monkeypatch):
    path = folder()
    with RecordedScheduler(path, segment_ns=10_000) as scheduler:
        Driver(scheduler, lambda dispatch: 1000).run(arrivals(30))
    log = read_log(path)
    restore = Scheduler.restore
    broken = iter([None, KeyError("pace"), None, None])

    def sometimes(state):
        error = next(broken)
        if error:
            raise error
        return restore(state)

    monkeypatch.setattr(Scheduler, "restore", sometimes)
    found = replay(log.segments)
    (fault,) = found.faults
    assert "segment 1" in fault
    assert "this version cannot play it: KeyError: 'pace'" in fault
    assert found.first is None


def test_an_unplayable_log_of_another_version_is_named_as_one(folder, monkeypatch):
    path = folder()
    monkeypatch.setattr(
        "batcher.journal.recorder.scheduler_fingerprint", lambda: "0123456789abcdef"
    )
    with RecordedScheduler(path, segment_ns=10_000) as scheduler:
        Driver(scheduler, lambda dispatch: 1000).run(arrivals(30))
    assert replay(read_log(path).segments).faults == []

    def broken(state):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(Scheduler, "restore", broken)
    fault, *_ = replay(read_log(path).segments).faults
    assert "recorded by another version (batcher " in fault
    assert "scheduler 0123456789abcdef), whose state this one cannot go on from; replay it" in fault


def test_timer_delay_of_wakeups_is_measured(folder):
    path = folder()
    with RecordedScheduler(path, segment_ns=1 << 60) as scheduler:
        settings = ModelSettings(4, FixedWindow(max_delay_ns=5_000))
        driver = Driver(scheduler, lambda dispatch: 1000, timer_delay=lambda: 70)
        driver.run(
            [
                (0, ModelConfigured("m", settings)),
                (0, InstanceUp("i", 1, "m", "d")),
                (1000, RequestArrived(1, "m", 1, 0, (), "", 1000)),
            ]
        )
    assert replay(read_log(path).segments).late_ns == [70]
