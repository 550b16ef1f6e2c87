import asyncio
import stat
import threading
from concurrent.futures import Future

import pytest

from batcher.clock import SECOND
from batcher.config import FlightRecorderConfig
from batcher.errors import FlightRecordFailed, RateLimited
from batcher.journal import FlightRecorder, IncidentReason, InForce, Tally, read_log
from batcher.journal.flight_recorder import LEAST_REQUESTS, WINDOW
from batcher.journal.segment_memory import SegmentMemory
from batcher.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make(tmp_path, recorded, clock):
    """A function that makes a flight recorder whose memory holds a recorded log."""

    def make(**options):
        memory = SegmentMemory(1 << 60, 1 << 40)
        for file in sorted(recorded(50).iterdir()):
            memory.begin(0, file.read_bytes())
        folder = tmp_path / "incidents"
        folder.mkdir()
        marks = []

        def mark():
            marks.append(Future())
            marks[-1].set_result(None)
            return marks[-1]

        async def metrics():
            return b"batcher_draining 0.0\n"

        def in_force():
            return InForce("key: ${SECRET}", ("m/1 queue.timeout: 1s",))

        config = FlightRecorderConfig(folder=folder, **options)
        flight = FlightRecorder(config, memory, mark, metrics, in_force, clock=clock)
        flight.marks = marks
        flight.folder = folder
        return flight

    return make


def files(flight):
    return sorted(flight.folder.iterdir())


async def test_a_flight_record_is_complete(make):
    flight = make()
    path = await flight.write(IncidentReason.REQUEST, "a look")
    assert files(flight) == [path]
    assert path.name.startswith("incident-")
    assert path.name.endswith("-request.batcherlog")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = read_log(path)
    assert log.faults == []
    assert len(log.segments) == 1
    incident = log.incident
    assert (incident.reason, incident.detail) == ("request", "a look")
    assert incident.metrics == "batcher_draining 0.0\n"
    assert incident.config == "key: ${SECRET}"
    assert incident.changes == ("m/1 queue.timeout: 1s",)
    assert {"grpcio", "msgpack"} <= set(incident.packages)
    assert flight.written == {
        "target_missed": 0,
        "executor_failure": 0,
        "signal": 0,
        "request": 1,
        "internal": 0,
        "crash": 0,
    }
    assert len(flight.marks) == 1  # all that had happened was in memory


async def test_files_are_limited_in_frequency(make, clock):
    flight = make(min_interval="1m")
    await flight.write(IncidentReason.SIGNAL)
    clock.advance(59 * SECOND)
    with pytest.raises(
        RateLimited, match=r"less than 60 s ago \(flight_recorder.min_interval"
    ) as caught:
        await flight.write(IncidentReason.SIGNAL)
    assert caught.value.retry_after_ns == SECOND
    clock.advance(1 * SECOND)
    await flight.write(IncidentReason.SIGNAL)
    assert len(files(flight)) == 2


async def test_two_incidents_at_once_are_one_record(make):
    flight = make()
    done = await asyncio.gather(
        flight.write(IncidentReason.SIGNAL),
        flight.write(IncidentReason.REQUEST),
        return_exceptions=True,
    )
    assert [type(each).__name__ for each in done[1:]] == ["RateLimited"]
    assert len(files(flight)) == 1


async def test_files_are_limited_in_number(make, clock):
    flight = make(max_files=3)
    for _ in range(5):
        await flight.write(IncidentReason.SIGNAL)
        clock.advance(60 * SECOND)
    assert len(files(flight)) == 3


async def test_a_file_that_was_never_finished_counts(make, clock):
    flight = make(max_files=3)
    (flight.folder / "incident-20200101T000000.000000-signal.part").touch()
    for count in (2, 3, 3):
        await flight.write(IncidentReason.SIGNAL)
        clock.advance(60 * SECOND)
        assert len(files(flight)) == count
    assert all(file.suffix == ".batcherlog" for file in files(flight))


@pytest.fixture
def held(monkeypatch):
    """A function that has a recorder's next files wait while they are written.

    Returns what is set once one waits, and what lets them go on.
    """

    def hold(flight):
        begun, go_on = threading.Event(), threading.Event()
        frames = flight.memory.frames

        def held_up():
            begun.set()
            assert go_on.wait(10)
            return frames()

        monkeypatch.setattr(flight.memory, "frames", held_up)
        return begun, go_on

    return hold


async def test_a_record_is_written_and_counted_if_its_caller_is_cancelled(make, held):
    flight = make()
    begun, go_on = held(flight)
    caller = asyncio.create_task(flight.write(IncidentReason.REQUEST))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(RateLimited):
        await flight.write(IncidentReason.REQUEST)
    (writing,) = asyncio.all_tasks() - {asyncio.current_task()}
    go_on.set()
    path = await writing
    assert files(flight) == [path]
    assert flight.written[IncidentReason.REQUEST] == 1


async def test_files_are_written_one_after_the_other(make, held, clock):
    flight = make(max_files=1, min_interval="1s")
    begun, go_on = held(flight)
    first = asyncio.create_task(flight.write(IncidentReason.SIGNAL))
    await asyncio.to_thread(begun.wait, 10)
    clock.advance(1 * SECOND)
    second = asyncio.create_task(flight.write(IncidentReason.REQUEST))
    for _ in range(8):
        await asyncio.sleep(0)
    assert len(flight.marks) == 2
    go_on.set()
    _, last = await asyncio.gather(first, second)
    assert files(flight) == [last]


async def test_a_folder_that_cannot_be_written_to_is_logged_and_retried(make):
    flight = make()
    flight.folder.rmdir()
    for _ in range(2):
        with pytest.raises(FlightRecordFailed, match="cannot be written: No such file"):
            await flight.write(IncidentReason.SIGNAL)
    flight.folder.mkdir()
    await flight.write(IncidentReason.SIGNAL)


def seconds(*tallies):
    """Counts of each second, as they would be read."""
    total = Tally()
    for ended, on_time, failures in tallies:
        total = Tally(total.ended + ended, total.on_time + on_time, total.failures + failures)
        yield {"m/1": total}


async def live(flight, clock, story):
    """Let the seconds of a story pass; returns the incidents written in each."""
    found = []
    for tallies in story:
        clock.advance(1 * SECOND)
        before = len(files(flight))
        flight.check(tallies)
        await flight.write_detected()
        found.append(len(files(flight)) - before)
    return found


async def test_too_few_in_time_is_an_incident_once(make, clock):
    flight = make(min_on_time_ratio=0.9, min_interval="1s")
    well, ill = (100, 100, 0), (100, 50, 0)
    # 50 of 300 late is the first time that less than 90 % of the window is in time.
    story = [well] * 4 + [ill] * 20
    found = await live(flight, clock, seconds(*story))
    assert sum(found) == 1
    assert found.index(1) < 8
    (path,) = files(flight)
    incident = read_log(path).incident
    assert incident.reason == "target_missed"
    assert incident.detail.startswith("m/1: 8")
    assert "were answered in time" in incident.detail


async def test_after_a_quiet_window_the_next_incident_counts(make, clock):
    flight = make(min_on_time_ratio=0.9, min_interval="1s")
    well, ill = (100, 100, 0), (100, 0, 0)
    story = [well] * 3 + [ill] * 5 + [well] * (2 * WINDOW + 3) + [ill] * 5
    assert sum(await live(flight, clock, seconds(*story))) == 2


async def test_few_requests_are_no_incident(make, clock):
    flight = make(min_on_time_ratio=0.9)
    each = (LEAST_REQUESTS - 1) // WINDOW
    assert not any(await live(flight, clock, seconds(*[(each, 0, 0)] * 20)))


async def test_without_a_threshold_lateness_is_no_incident(make, clock):
    flight = make(min_on_time_ratio=None)
    assert not any(await live(flight, clock, seconds(*[(1000, 0, 0)] * 20)))


async def test_an_executor_that_fails_is_an_incident_once(make, clock):
    flight = make(min_interval="1s")
    story = [(9, 9, 0), (9, 9, 0), (9, 0, 9), (9, 0, 9), (9, 0, 9)]
    found = await live(flight, clock, seconds(*story))
    assert found == [0, 0, 1, 0, 0]
    assert read_log(files(flight)[0]).incident.detail == "m/1: 9 requests failed"


async def test_an_incident_that_comes_too_soon_is_written_later(make, clock):
    flight = make(min_interval="5s", duration="10s")
    await flight.write(IncidentReason.SIGNAL)
    story = [(1, 1, 0), (1, 0, 1), *[(1, 1, 0)] * 5]
    found = await live(flight, clock, seconds(*story))
    assert found == [0, 0, 0, 0, 1, 0, 0]


async def test_an_incident_that_cannot_be_written_is_logged(make, clock, caplog):
    flight = make()
    flight.folder.rmdir()
    flight.check({"m/1": Tally(failures=1)})
    await flight.write_detected()
    assert "the flight record cannot be written" in caplog.text
