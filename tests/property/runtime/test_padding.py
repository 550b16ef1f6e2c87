"""Requests of any lengths share a batch, and each gets its own rows in its own shape."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.queueing.padding import Buckets
from batcher.executor import Batch, BatchResult, ModelMetadata, TensorSpec
from batcher.runtime.execution.execute import check_result
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.execution.scatter import scatter
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.interface.padding_rules import AxisRule, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.signature import Signature
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

METADATA = ModelMetadata(
    "test",
    (
        TensorSpec("fixed", "FP32", (-1, 2)),
        TensorSpec("x", "INT32", (-1, -1, -1), dims=("n", "h", "w")),
        TensorSpec("texts", "BYTES", (-1, -1), dims=("n", "t")),
    ),
    (
        TensorSpec("turned", "INT32", (-1, -1, -1), dims=("n", "w", "h")),
        TensorSpec("copies", "BYTES", (-1, -1), dims=("n", "t")),
        TensorSpec("sums", "INT64", (-1, 1)),
        TensorSpec("same", "FP32", (-1, 2)),
    ),
)
LAYOUT = layout_of(METADATA)
PAD = 1_000_000

buckets = st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True).map(
    lambda lengths: tuple(sorted({*lengths, 6}))
)
sizes = st.tuples(st.integers(1, 3), st.integers(0, 6), st.integers(1, 6), st.integers(0, 6))


def execute(batch: Batch) -> BatchResult:
    x, texts = batch.inputs["x"], batch.inputs["texts"]
    own = np.where(x == PAD, 0, x)
    outputs = {
        "turned": np.ascontiguousarray(x.transpose(0, 2, 1)),
        "copies": texts,
        "sums": own.sum(axis=(1, 2), dtype=np.int64).reshape(-1, 1),
        "same": batch.inputs["fixed"],
    }
    return BatchResult(outputs)


def request(place, rows, h, w, t):
    draw = np.random.default_rng(place)
    x = draw.integers(0, 1000, (rows, h, w), dtype=np.int32)
    texts = np.empty((rows, t), np.object_)
    texts[:] = [[b"%d/%d/%d" % (place, row, at) for at in range(t)] for row in range(rows)]
    fixed = np.full((rows, 2), place, np.float32)
    inputs = {
        "fixed": Tensor("FP32", fixed),
        "x": Tensor("INT32", x),
        "texts": Tensor("BYTES", texts),
    }
    return InferenceRequest("m", inputs, 0)


@given(st.lists(sizes, min_size=1, max_size=6), buckets, buckets, buckets)
def test_every_request_gets_its_own_rows_in_its_own_shape(requests, heights, widths, lengths):
    rules = PaddingRules(
        (
            AxisRule("x", 1, PAD, heights),
            AxisRule("texts", 1, "pad", lengths),
            AxisRule("x", 2, PAD, widths),
        ),
        (),
        "models[0].",
    )
    padding = resolve_padding("m", rules, METADATA)
    signature = Signature("m", METADATA, 32, padding)
    made = [request(place, *size) for place, size in enumerate(requests)]
    shapes = [signature.validate(each).shapes for each in made]
    found = [Buckets(padding.axes).of(each) for each in shapes]
    # The batch's bucket holds those of all its requests.
    bucket = tuple(
        tuple(max(axis) for axis in zip(*of_input, strict=True))
        for of_input in zip(*found, strict=True)
    )
    padded = padding.of(bucket)
    batch = gather([Slice(each, 0, len(each.inputs["x"].array), padded) for each in made], LAYOUT)
    assert batch.inputs["x"].shape[1:] == bucket[1]
    result = check_result(execute(batch), batch, LAYOUT, padded)
    start = 0
    for place, each in enumerate(made):
        x = each.inputs["x"].array
        stop = start + len(x)
        answer = scatter(result, start, stop, None, LAYOUT, padding.cuts(shapes[place]))
        assert answer["turned"].array.tolist() == x.transpose(0, 2, 1).tolist()
        assert answer["turned"].array.shape == (len(x), x.shape[2], x.shape[1])
        assert answer["copies"].array.tolist() == each.inputs["texts"].array.tolist()
        assert answer["sums"].array[:, 0].tolist() == x.sum(axis=(1, 2)).tolist()
        assert (answer["same"].array == place).all()
        start = stop
