import errno
import fcntl
import os
import stat

import pytest

from batcher.journal import IncidentReason, InForce, read_log
from batcher.journal.crash import HEAD, LiveLog, salvage
from batcher.journal.flight_recorder import describe_incident
from batcher.journal.segment_files import SegmentFiles
from batcher.simulation.logs.replay import replay


@pytest.fixture
def folder(tmp_path):
    """That of the flight records."""
    folder = tmp_path / "incidents"
    folder.mkdir()
    return folder


@pytest.fixture
def begin(folder):
    """A function that starts the live log of a server; those that run at the end close."""
    running = []

    def begin(most_files=100, most_bytes=1 << 30):
        head = describe_incident(IncidentReason.CRASH, "it crashed", InForce("key: 1"), "")
        running.append(LiveLog(folder, head, most_files, most_bytes))
        return running[-1]

    def crash(live):
        """What the kernel does at the end of a process."""
        running.remove(live)
        SegmentFiles.close(live)
        os.close(live._lock)

    def close(live):
        running.remove(live)
        live.close()

    begin.crash, begin.close = crash, close
    yield begin
    while running:
        close(running[-1])


@pytest.fixture
def crashed(begin, recorded):
    """A function that leaves what a server leaves that crashes after some requests."""
    segments = [file.read_bytes() for file in sorted(recorded(requests=300).iterdir())]

    def crashed(keep=slice(None)):
        live = begin()
        for data in segments[keep]:
            live.begin(0, data)
        begin.crash(live)
        return live.folder

    return crashed


def requests(log):
    return sum(segment.requests for segment in log.segments)


def test_the_log_of_a_crash_becomes_a_flight_record(crashed, folder):
    left = crashed()
    last = max(left.glob("journal-*"))
    os.utime(last, ns=(0, 1_600_000_000_123_456_000))
    assert salvage(folder, 10) == 1
    (path,) = folder.iterdir()
    assert path.name == "incident-20200913T122640.123456-crash.batcherlog"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = read_log(path)
    assert log.faults == []
    assert requests(log) == 300
    assert len(log.segments) > 2
    assert replay(log.segments).first is None
    incident = log.incident
    assert (incident.reason, incident.detail) == ("crash", "it crashed")
    assert (incident.config, incident.metrics) == ("key: 1", "")
    assert incident.wall_ns == 1_600_000_000_123_456_000
    assert salvage(folder, 10) == 0


def test_a_torn_end_costs_its_last_block(crashed, folder):
    left = crashed()
    last = max(left.glob("journal-*"))
    os.truncate(last, last.stat().st_size - 30)
    assert salvage(folder, 10) == 1
    (path,) = folder.iterdir()
    log = read_log(path)
    assert len(log.faults) == 1
    assert "cut off at byte" in log.faults[0]
    assert 200 < requests(log) <= 300
    assert replay(log.segments).first is None


def test_what_a_running_server_writes_is_its_own(begin, crashed, folder):
    live = begin()
    live.begin(0, b"x")
    crashed()
    assert salvage(folder, 10) == 1
    assert live.folder.is_dir()
    live.add(b"y")
    begin.crash(live)
    assert [file.read_bytes() for file in live.folder.glob("journal-*")] == [b"xy"]


def test_only_one_of_several_starting_servers_makes_the_record(crashed, folder):
    left = crashed()
    with (left / HEAD).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert salvage(folder, 10) == 0
        (left / HEAD).unlink()  # it is being removed
    assert salvage(folder, 10) == 0
    assert list(folder.iterdir()) == [left]


def test_a_server_that_closes_leaves_nothing(begin, folder):
    live = begin()
    live.begin(0, b"x")
    begin.close(live)
    assert list(folder.iterdir()) == []


def test_a_live_log_takes_as_much_as_the_memory(begin):
    live = begin(most_files=4, most_bytes=800)
    for number in range(30):
        live.begin(number, b"x" * 50)
        live.add(b"y" * 200)
    begin.crash(live)
    kept = list(live.folder.glob("journal-*"))
    assert len(kept) <= 4
    assert sum(file.stat().st_size for file in kept) <= 800 + 200


def test_records_of_crashes_count_among_the_others(crashed, folder):
    for name in ("20200101T000000.000000-signal", "20200102T000000.000000-signal"):
        (folder / f"incident-{name}.batcherlog").touch()
    crashed()
    assert salvage(folder, 2) == 1
    names = sorted(path.name.split("-", 2)[-1] for path in folder.iterdir())
    assert names == ["crash.batcherlog", "signal.batcherlog"]


def test_a_crash_before_any_request_is_logged_and_replaces_no_record(crashed, folder, caplog):
    crashed(keep=slice(0))
    assert salvage(folder, 10) == 0
    assert list(folder.iterdir()) == []
    assert "a server crashed before its first request" in caplog.text


def test_a_log_without_a_readable_head_is_logged_and_removed(crashed, folder, caplog):
    (crashed() / HEAD).write_bytes(b"")
    assert salvage(folder, 10) == 0
    assert list(folder.iterdir()) == []
    assert "a server crashed, and its log cannot be read: head has no incident" in caplog.text


def test_a_record_that_cannot_be_written_is_tried_at_the_next_start(
    crashed, folder, caplog, monkeypatch
):
    left = crashed()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("batcher.journal.flight_recorder.write_all", full)
        assert salvage(folder, 10) == 0
    assert list(folder.iterdir()) == [left]
    assert "No space left on device" in caplog.text
    assert salvage(folder, 10) == 1


def test_a_folder_that_cannot_be_locked_is_unchanged(begin, folder, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="No locks available"):
        begin()
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_there_yet_has_nothing(tmp_path):
    assert salvage(tmp_path / "none", 10) == 0
