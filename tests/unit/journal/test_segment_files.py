import os
import stat
import threading

import pytest

from batcher.journal import segment_files as module
from batcher.journal.segment_files import MAX_QUEUED_BYTES, SegmentFiles, delete_oldest


@pytest.fixture
def start(tmp_path):
    """A function that starts to write into `tmp_path`; closed at the end."""
    started = []

    def start(most_files=100, most_bytes=1 << 30):
        files = SegmentFiles(tmp_path, most_files, most_bytes)
        started.append(files)
        return files

    yield start
    for files in started:
        files.close()


def test_each_segment_is_a_file_of_the_owner_alone(start, tmp_path):
    files = start()
    files.begin(0, b"one")
    files.add(b"more")
    files.begin(1, b"two")
    files.close()
    one, two = sorted(tmp_path.iterdir())
    assert (one.read_bytes(), two.read_bytes()) == (b"onemore", b"two")
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert one.name.startswith("journal-")
    assert one.suffix == ".batcherlog"
    assert files.written_bytes == 10


def test_the_oldest_files_go_when_there_are_too_many(start, tmp_path):
    (tmp_path / "journal-00000000T000000-1-00000000.batcherlog").write_bytes(b"earlier")
    (tmp_path / "notes.txt").write_text("not ours")
    files = start(most_files=3)
    for number in range(5):
        files.begin(number, b"%d" % number)
    files.close()
    found = sorted(tmp_path.glob("journal-*"))
    assert [file.read_bytes() for file in found] == [b"2", b"3", b"4"]
    assert (tmp_path / "notes.txt").exists()


def test_the_files_stay_below_the_size(start, tmp_path):
    files = start(most_bytes=800)
    for number in range(30):
        files.begin(number, b"x" * 50)
        files.add(b"y" * 50)
    files.close()
    assert 500 <= sum(file.stat().st_size for file in tmp_path.iterdir()) <= 800


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk that does not write until it may."""
    free, reached = threading.Event(), threading.Event()

    def write(file, data):
        reached.set()
        free.wait(30)
        return os.write(file, data)

    monkeypatch.setattr(module, "write_all", write)
    yield free, reached
    free.set()


def test_a_slow_disk_costs_segments_and_no_memory(start, tmp_path, slow_disk, caplog):
    free, reached = slow_disk
    files = start()
    files.begin(0, b"first")
    assert reached.wait(10)
    block = b"x" * (1024 * 1024)
    for _ in range(40):
        files.add(block)
        assert files._waiting <= MAX_QUEUED_BYTES
    files.begin(1, b"second")  # the disk is still behind
    files.add(b"of the second")
    assert files.lost_segments == 2
    free.set()
    while files._waiting:  # the files' own thread is at it
        threading.Event().wait(0.001)
    files.begin(2, b"third")
    files.add(b"of the third")
    files.close()
    one, three = sorted(tmp_path.iterdir())
    assert len(one.read_bytes()) == 5 + 15 * len(block)
    assert three.read_bytes() == b"thirdof the third"
    assert sum("the journal: the disk is behind" in r.message for r in caplog.records) == 1


def test_a_disk_that_fails_is_logged_once_and_retried(start, tmp_path, monkeypatch, caplog):
    failing = True

    def write(file, data):
        if failing:
            raise OSError(28, "No space left on device")
        os.write(file, data)

    monkeypatch.setattr(module, "write_all", write)
    files = start()
    for number in range(3):
        files.begin(number, b"lost")
        files.add(b"lost, too")
    while files._waiting:
        threading.Event().wait(0.001)
    failing = False
    files.begin(3, b"kept")
    files.close()
    assert max(tmp_path.iterdir()).read_bytes() == b"kept"
    assert files.lost_segments == 3
    assert [r.message for r in caplog.records] == [
        f"{tmp_path}: the journal cannot be written: No space left on device; the next segment is tried again"
    ]


def test_a_disk_that_hangs_does_not_delay_the_end(start, tmp_path, slow_disk, monkeypatch, caplog):
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.01)
    files = start()
    files.begin(0, b"first")
    assert slow_disk[1].wait(10)
    files.close()
    assert "the disk is too slow: the end of the journal is not written" in caplog.text


def test_the_oldest_files_are_deleted(tmp_path):
    for name in "abc":
        (tmp_path / f"x-{name}").write_bytes(b"1234")
    delete_oldest(tmp_path.glob("x-*"), 10)
    assert len(list(tmp_path.iterdir())) == 3
    delete_oldest(tmp_path.glob("x-*"), 10, 8)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["x-b", "x-c"]
    delete_oldest(tmp_path.glob("x-*"), 2)
    assert [f.name for f in tmp_path.iterdir()] == ["x-c"]
