"""Logs as they should be, and logs that something happened to."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.errors import InputError
from batcher.journal import read_log
from batcher.journal.codec import schema
from batcher.journal.format import FORMAT, MAGIC, FrameKind, pieces
from batcher.simulation.logs.replay import replay


def joined(folder, path):
    """All segments in one file, as a flight record has them."""
    path.write_bytes(b"".join(file.read_bytes() for file in sorted(folder.iterdir())))
    return path


def test_a_log_has_its_settings_and_counts(recorded):
    log = read_log(recorded())
    assert log.faults == []
    assert log.incident is None
    assert [segment.opening.number for segment in log.segments] == list(range(len(log.segments)))
    assert len(log.segments) == 5
    assert sum(segment.requests for segment in log.segments) == 400
    assert all(
        after.follows(before) for before, after in zip(log.segments, log.segments[1:], strict=False)
    )
    first = log.segments[0]
    assert first.opening.now_ns == 0
    assert first.steps_count == len(list(first.steps()))
    assert first.last_ns == list(first.steps())[-1].now_ns


def test_a_log_whose_state_lacks_a_field_is_from_another_version(recorded, monkeypatch):
    older = tuple(
        (name, tuple(field for field in fields if (name, field) != ("SavedRequest", "requeues")))
        for name, fields in schema()
    )
    monkeypatch.setattr("batcher.journal.recorder.schema", lambda: older)
    monkeypatch.setattr("batcher.journal.recorder.__version__", "0.0.7")
    monkeypatch.setattr("batcher.journal.recorder.scheduler_fingerprint", lambda: "0123456789")
    folder = recorded(20)
    wanted = (
        r"it was recorded by another version \(batcher 0\.0\.7, scheduler 0123456789\) than this one .*:"
        r" it lacks SavedRequest\.requeues, which has no default"
    )
    with pytest.raises(InputError, match=wanted):
        read_log(folder)


def test_segments_in_one_file_are_the_same_log(recorded, tmp_path):
    folder = recorded()
    one = read_log(joined(folder, tmp_path / "one"))
    many = read_log(folder)
    assert one.faults == []
    assert [list(s.steps()) for s in one.segments] == [list(s.steps()) for s in many.segments]
    assert [s.state() for s in one.segments] == [s.state() for s in many.segments]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "no such file or folder"),
        (lambda p: p, "the folder has no journal; give a folder with files journal-"),
        (lambda p: write(p / "empty", b""), "it has no segment that can be replayed"),
        (lambda p: write(p / "text", b"hello " * 100), "these bytes are no segment"),
        (
            lambda p: write(p / "magic", MAGIC),
            "it has format nothing, and this version of batcher reads format 1",
        ),
        (
            lambda p: write(p / "new", MAGIC + b"\x07"),
            "it has format 7, and this version of batcher reads format 1",
        ),
        (lambda p: write(p / "head", MAGIC + bytes([FORMAT])), "it has no snapshot to start from"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        read_log(make(tmp_path))


def write(path, data):
    path.write_bytes(data)
    return path


def whole_segments(path):
    """How many segments replay to their end, with nothing different anywhere."""
    try:
        log = read_log(path)
    except InputError as error:
        return 0, [str(error)], 0
    found = replay(log.segments)
    assert found.first is None
    complete = sum(segment.complete for segment in log.segments)
    return complete - len(found.faults), [*log.faults, *found.faults], found.steps


@pytest.fixture
def one_file(recorded, tmp_path):
    return joined(recorded(60, 20), tmp_path / "one").read_bytes()


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_log_that_was_cut_off_replays_up_to_there(one_file, tmp_path, data):
    size = data.draw(st.integers(1, len(one_file) - 1))
    whole, faults, _ = whole_segments(write(tmp_path / "cut", one_file[:size]))
    starts = [piece.start for piece in pieces(one_file)]
    assert whole == sum(1 for start in [*starts[1:], len(one_file)] if start <= size)
    assert size in starts or faults


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_a_flipped_bit_costs_one_segment_and_is_reported(one_file, tmp_path, data):
    bit = data.draw(st.integers(0, 8 * len(one_file) - 1))
    broken = bytearray(one_file)
    broken[bit // 8] ^= 1 << bit % 8
    whole, faults, steps = whole_segments(write(tmp_path / "flipped", bytes(broken)))
    total = sum(1 for _ in pieces(one_file))
    assert whole >= total - 2  # the magic of a segment is also the end of the one before it
    assert faults
    assert steps > 0


@pytest.mark.parametrize("kind", FrameKind)
def test_a_flipped_bit_in_each_kind_of_frame(one_file, tmp_path, kind):
    (piece, *_) = [
        p for p in list(pieces(one_file))[1:] if any(f.kind is kind for f in p.frames)
    ] or [None]
    if piece is None:
        assert kind is FrameKind.INCIDENT
        return
    frame = next(f for f in piece.frames if f.kind is kind)
    for at in (frame.start - 9, frame.start - 5, frame.start - 1, frame.start, frame.stop - 1):
        broken = bytearray(one_file)
        broken[at] ^= 16
        path = write(tmp_path / f"{at}", bytes(broken))
        whole, faults, _ = whole_segments(path)
        assert whole == sum(1 for _ in pieces(one_file)) - 1
        assert any("corrupt" in fault or "cut off" in fault for fault in faults), faults


def test_a_truncated_file_is_reported_and_the_rest_replays(recorded):
    folder = recorded()
    second = sorted(folder.iterdir())[1]
    second.write_bytes(second.read_bytes()[:-30])
    log = read_log(folder)
    assert any(second.name in fault and "cut off" in fault for fault in log.faults)
    found = replay(log.segments)
    assert found.first is None
    assert found.segments == 5


def test_a_last_file_that_ends_between_two_frames_is_reported(recorded):
    folder = recorded()
    last = max(folder.iterdir())
    data = last.read_bytes()
    (piece,) = pieces(data)
    assert piece.frames[-1].kind is FrameKind.END
    last.write_bytes(data[: piece.frames[-2].stop])
    (fault,) = read_log(folder).faults
    assert last.name in fault
    assert "no end: its server still runs, or the rest of it was not written" in fault


@pytest.mark.parametrize("place", [0, 1, -1])
def test_an_empty_file_is_reported(recorded, place):
    folder = recorded()
    empty = sorted(folder.iterdir())[place]
    empty.write_bytes(b"")
    assert f"{empty}: the file is empty" in read_log(folder).faults


def test_a_copy_of_a_segment_is_left_out(recorded):
    folder = recorded()
    segments = read_log(folder).segments
    second = sorted(folder.iterdir())[1]
    half = second.read_bytes()[: segments[1]._blocks[0].stop]
    (folder / "journal-9.batcherlog").write_bytes(second.read_bytes())
    second.write_bytes(half)
    log = read_log(folder)
    assert [s.opening.number for s in log.segments] == [s.opening.number for s in segments]
    assert log.segments[1].path.name == "journal-9.batcherlog"
    (fault,) = log.faults
    assert f"({second.name}): it is left out, because journal-9.batcherlog has it, too" in fault
    assert replay(log.segments).first is None


def test_a_missing_segment_is_reported(recorded):
    folder = recorded()
    sorted(folder.iterdir())[2].unlink()
    log = read_log(folder)
    (fault,) = log.faults
    assert "1 segments after it are missing" in fault
    assert replay(log.segments).first is None


def test_a_segment_that_is_deleted_while_it_is_read_is_reported(recorded):
    folder = recorded()
    log = read_log(folder)
    sorted(folder.iterdir())[1].unlink()
    found = replay(log.segments)
    assert found.first is None
    (fault,) = found.faults
    assert "the file can no longer be read: No such file" in fault


def test_two_logs_in_a_folder_are_put_one_after_the_other(recorded, tmp_path):
    one, two = recorded(100, name="one"), recorded(100, name="two")
    for file in two.iterdir():
        file.rename(one / f"journal-0{file.name.removeprefix('journal-')}")
    log = read_log(one)
    assert log.faults == []
    assert [s.opening.number for s in log.segments] == [0, 1, 0, 1]
    assert log.segments[0].opening.log == log.segments[1].opening.log
    assert log.segments[0].opening.wall_ns <= log.segments[2].opening.wall_ns
