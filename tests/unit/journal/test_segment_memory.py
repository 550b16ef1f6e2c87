from hypothesis import given
from hypothesis import strategies as st

from batcher.journal.segment_memory import SegmentMemory


def test_segments_older_than_the_duration_are_dropped():
    memory = SegmentMemory(duration_ns=100, most_bytes=1000)
    for begins_ns in range(0, 300, 50):
        memory.begin(begins_ns, b"%03d" % begins_ns)
        memory.add(b"x")
    # The one of 150 ended at 200, after 250 - 100.
    assert memory.frames() == [b"150", b"x", b"200", b"x", b"250", b"x"]
    assert memory.nbytes == 12


def test_the_oldest_segments_are_dropped_beyond_the_size():
    memory = SegmentMemory(duration_ns=1000, most_bytes=10)
    memory.begin(0, b"aaaa")
    memory.begin(1, b"bbbb")
    memory.add(b"cccc")
    assert memory.frames() == [b"bbbb", b"cccc"]


def test_a_segment_that_is_too_large_alone_is_dropped():
    memory = SegmentMemory(duration_ns=1000, most_bytes=10)
    memory.begin(0, b"aaaa")
    memory.add(b"b" * 7)
    memory.add(b"c")
    assert memory.frames() == []
    assert memory.nbytes == 0
    memory.begin(1, b"d")
    assert memory.frames() == [b"d"]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60), st.integers(1, 100))
def test_the_size_limit_is_never_exceeded(parts, most_bytes):
    memory = SegmentMemory(duration_ns=20, most_bytes=most_bytes)
    for now_ns, (begins, size) in enumerate(parts):
        if begins:
            memory.begin(now_ns, b"o" * size)
        else:
            memory.add(b"x" * size)
        frames = memory.frames()
        assert memory.nbytes == sum(map(len, frames)) <= most_bytes
        assert not frames or frames[0].startswith(b"o")
