"""Batches gathered into memory of the executor are those that are gathered without it, in any order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batcher.executors.input_buffers import InputBuffers
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padded
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

MOST = 8
DATATYPES = {"x": "FP32", "y": "INT64", "text": "BYTES"}


def poisoned(_name, shape, dtype):
    array = np.empty(shape, dtype)
    array.view(np.uint8)[...] = 0xFF
    return array


def array_of(datatype, shape, numbers):
    values = numbers.integers(0, 100, shape)
    if datatype == "BYTES":
        texts = np.empty(shape, object)
        texts.reshape(-1)[:] = [b"%d" % each for each in values.reshape(-1)]
        return texts
    return values.astype(np.float32 if datatype == "FP32" else np.int64)


@st.composite
def batches(draw):
    """The slices of one batch of at most `MOST` rows, and its layout."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    padded = None
    longest = draw(st.integers(0, 4))
    if draw(st.booleans()):
        padded = Padded(
            dict.fromkeys(DATATYPES, (longest, 2)),
            {"x": np.float32(-1), "y": np.int64(7), "text": b"pad"},
            {},
        )
    slices, left = [], MOST
    while left and (not slices or draw(st.booleans())):
        rows = draw(st.integers(1, left))
        length = longest if padded is None else draw(st.integers(0, longest))
        whole = draw(st.integers(rows, rows + 2))
        start = draw(st.integers(0, whole - rows))
        inputs = {
            name: Tensor(datatype, array_of(datatype, (whole, length, 2), numbers))
            for name, datatype in DATATYPES.items()
        }
        slices.append(Slice(InferenceRequest("m", inputs, 0), start, start + rows, padded))
        left -= rows
    sizes = draw(st.sampled_from([(), (MOST,), (2, 3, MOST)]))
    return slices, Layout({}, batch_sizes=sizes)


@given(st.lists(st.tuples(batches(), st.booleans()), min_size=1, max_size=6), st.integers(0, 3))
def test_gathering_gives_the_same_batches(given_batches, most_arrays):
    buffers = InputBuffers(poisoned, MOST, most_arrays=2 * most_arrays)
    running = []
    for (slices, layout), ends in given_batches:
        lent = buffers.lend()
        batch, plain = gather(slices, layout, lent), gather(slices, layout)
        running.append((batch, plain, lent))
        assert batch.rows == plain.rows
        for in_buffers, expected, _ in running:
            for name, array in expected.inputs.items():
                np.testing.assert_array_equal(in_buffers.inputs[name], array)
                assert in_buffers.inputs[name].flags.c_contiguous
        if ends:
            running.pop(0)[2].give_back()
