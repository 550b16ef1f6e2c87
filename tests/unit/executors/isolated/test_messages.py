"""What a child may send, and what is believed of it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import ModelLoadError
from batcher.executor import Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.executors.isolated import replies
from batcher.executors.isolated.arena import Arena
from batcher.executors.isolated.frames import LENGTH, MAX_MESSAGE, FrameError, Frames, frame
from batcher.executors.isolated.messages import INLINE, VERSION
from batcher.executors.isolated.replies import LyingChildError
from batcher.executors.isolated.tensors import inline, placed, prepared, received
from batcher.executors.isolated.values import checked, packed_context, plain, unpacked_context
from batcher.tensors import DTYPES

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=12,
)


@given(st.lists(st.lists(values, max_size=4), max_size=6), st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(said, size):
    messages = [[kind, *rest] for kind, rest in enumerate(said)]
    data = b"".join(map(frame, messages))
    frames, found = Frames(), []
    for start in range(0, len(data), size):
        found += frames.feed(data[start : start + size])
    assert found == messages


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_are_messages_or_an_error(pieces):
    frames = Frames()
    try:
        for piece in pieces:
            for message in frames.feed(piece):
                assert type(message[0]) is int
    except FrameError:
        pass


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (LENGTH.pack(MAX_MESSAGE + 1), "allowed: 8388608"),
        (LENGTH.pack(1) + b"\xc1", "not msgpack"),
        (LENGTH.pack(1) + b"\x90", "without a kind"),
        (LENGTH.pack(3000) + b"\x91" * 3000, "not msgpack"),
        (LENGTH.pack(5) + b"\xdd\xff\xff\xff\xff", "not msgpack"),
    ],
)
def test_what_is_no_message_is_named(data, why):
    with pytest.raises(FrameError, match=why):
        list(Frames().feed(data))


def test_a_message_has_a_bound():
    with pytest.raises(FrameError, match="allowed: 8388608"):
        frame([1, b"x" * (MAX_MESSAGE + 1)])


CONTEXT = LoadContext(
    "m",
    "2",
    3,
    "cuda:1",
    64,
    {"a": [1, {"b": None}], 2: "c", "text": "ä"},
    Path("/models/\udcff"),
    {"X": False},
    5,
    (1, 2, 8),
    {"X": {1: (16, 32)}},
)


def test_a_context_arrives_as_it_was():
    unlike = [
        each.name
        for each in dataclasses.fields(LoadContext)
        if each.default is not dataclasses.MISSING and getattr(CONTEXT, each.name) == each.default
    ]
    assert not unlike  # a new field must be here
    assert unpacked_context(packed_context(CONTEXT)) == CONTEXT


def test_an_option_that_cannot_be_sent_is_named():
    context = dataclasses.replace(CONTEXT, options={"day": dt.date(2020, 1, 1)})
    with pytest.raises(
        ModelLoadError, match=r"model 'm': options: .*datetime.date.*allowed: texts"
    ):
        packed_context(context)


METADATA = ModelMetadata(
    "p",
    (TensorSpec("X", "FP32", (-1, 4), True, ("b", None), False),),
    (TensorSpec("Y", "BYTES", (-1,)),),
    {"k": "v"},
    ("p",),
    ("m",),
    8,
    (1, 2),
    (4, 8),
)


def test_metadata_arrive_as_they_were():
    said = msgpack.unpackb(msgpack.packb(plain(METADATA)))
    assert checked(said, ModelMetadata) == METADATA
    assert replies.loaded([66, said, True]) == (METADATA, True)


@given(values)
def test_wrong_metadata_are_a_lie(value):
    with pytest.raises(LyingChildError):
        replies.loaded([66, value, False])
    with pytest.raises(LyingChildError):
        replies.loaded([66, plain(METADATA), value if type(value) is not bool else None])
    with pytest.raises(LyingChildError):
        replies.loaded([66, plain(METADATA) | {"inputs": value}, False] if value != [] else [66])


@given(st.sampled_from([replies.hello, replies.not_loaded]), st.lists(values, max_size=6))
def test_any_other_message_is_a_lie(read, said):
    with pytest.raises(LyingChildError):
        read([65, *said])


def test_another_version_is_named():
    with pytest.raises(LyingChildError, match="batcher was replaced on disk"):
        replies.hello([65, VERSION + 1, plain(Capabilities()), False, False, False])


@pytest.mark.parametrize(
    "times",
    [[], [1, 2, 3, 4], ["1"] * 5, [9, 0, 11, 12, 13], [10, 0, 12, 11, 13], [10, 0, 11, 12, 101]],
)
def test_times_that_cannot_be_are_a_lie(times):
    with pytest.raises(LyingChildError, match="times"):
        replies.times(times, 10, 100)


def test_times_that_can_be_are_believed():
    assert replies.times([10, 0, 11, 12, 100], 10, 100).ended_ns == 100
    assert replies.times([10, 11, 12, 12, 13], 10, 100).submitted_ns == 11


@pytest.mark.parametrize("errors", [[], {"0": "no"}, {0: 1}, {2: "no"}, {-1: "no"}])
def test_errors_of_rows_that_cannot_be_are_a_lie(errors):
    with pytest.raises(LyingChildError, match="row"):
        replies.row_errors(errors, 2)


ARRAYS = {
    name: np.array([[b"", b"ab\0"], ["ä", b"\xff"]], object)
    if name == "BYTES"
    else np.arange(4).reshape(2, 2).astype(dtype)
    for name, dtype in DTYPES.items()
}


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (2, 0), (0, 3), (4,)])
@pytest.mark.parametrize("large", [False, True])
def test_every_datatype_arrives_as_it_was(datatype, shape, large):
    array = ARRAYS[datatype]
    array = array.reshape(shape) if np.prod(shape) else array[:0, :0].reshape(shape)
    arena = Arena(1 << 20)
    items, nbytes = prepared({"T": array, "U": array[::-1]})
    assert nbytes == 0
    sent = placed(items, arena, 640) if large else inline(items)
    sent = msgpack.unpackb(msgpack.packb(sent))
    for tensor, expected in zip(sent, (array, array[::-1]), strict=True):
        _, found = received(tensor, arena, (640, 1 << 20) if large else (0, 0))
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tolist() == expected.tolist()
    arena.close()


def test_from_some_size_on_tensors_go_into_the_arena():
    half = np.zeros(INLINE // 2, np.uint8)
    assert prepared({"A": half, "B": half})[1] == 0
    assert prepared({"A": half, "B": half, "C": half[:1]})[1] == INLINE + 64


@given(
    st.one_of(
        values,
        st.tuples(
            st.sampled_from(["T", 1]),
            st.sampled_from(["<f4", "|O", "|u1", "|V8", 3]),
            st.lists(st.integers(-1, 2**62), max_size=4) | values,
            st.integers(-2, 9000) | values,
            st.integers(-1, 9000) | st.binary(max_size=40) | values,
        ).map(list),
    )
)
def test_a_tensor_that_cannot_be_is_refused_and_never_read_from_elsewhere(tensor):
    arena = Arena(1 << 14)
    try:
        name, array = received(tensor, arena, (64, 4096))
    except ValueError:
        return
    finally:
        arena.close()
    assert type(name) is str
    if array.dtype != object and tensor[3] >= 0:
        assert tensor[3] >= 64
        assert tensor[3] + array.nbytes <= 4096


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (["T", "<f4", [2], 32, 8], "outside"),
        (["T", "<f4", [2], 4032, 128], "outside"),
        (["T", "<f4", [2], 65, 8], "not aligned"),
        (["T", "<f4", [2], 64, 4], "other than 8 bytes"),
        (["T", "<f4", [2**40, 2**40], 64, 8], "other than"),
        (["T", "<f4", [0, 2**62, 2**62], 64, 0], "cannot be made"),
        (["T", "|O", [2], -1, msgpack.packb([b"a"])], "another number of elements"),
        (["T", "|O", [1], -1, msgpack.packb([1])], "neither bytes nor text"),
        (["T", "|O", [1], -1, b"\xc1"], "not msgpack"),
        (["T", ">f4", [1], -1, bytes(4)], "dtype"),
        (["T", "<f4", [1] * 33, -1, bytes(4)], "without a shape"),
    ],
)
def test_a_wrong_tensor_is_named(tensor, why):
    arena = Arena(1 << 14)
    with pytest.raises(ValueError, match=why):
        received(tensor, arena, (64, 4096))
    arena.close()
