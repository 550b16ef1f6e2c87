"""The warm-up: sizes, buckets from the outermost on, values, and its time limit."""

import asyncio

import numpy as np
import pytest

from batcher.clock import SECOND, monotonic_ns
from batcher.config import WarmupConfig
from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory
from batcher.executor import ExecutionError, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.execution.worker import make_worker
from batcher.runtime.instances import warmup
from batcher.runtime.instances.sample import DEFAULT_LENGTH, Sample, WarmupPlan, plain_shapes
from batcher.runtime.instances.warmup import TIMED_BATCHES, warm_up_buckets
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.interface.padding_rules import AxisRule, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.testing import FakeExecutor

METADATA = ModelMetadata(
    "fake",
    (TensorSpec("X", "FP32", (-1, -1, -1), dims=("n", "a", "b")),),
    (TensorSpec("Y", "FP32", (-1, -1, -1), dims=("n", "a", "b")),),
)
RULES = PaddingRules((AxisRule("X", 1, 0, (2, 4, 6, 8)),), (), "models[0].")


@pytest.fixture
def warm_up():
    """`warm_up(sizes)`: the profiles of the buckets of a fake, and the shapes of its batches."""

    async def call(*sizes):
        fake = FakeExecutor(metadata=METADATA)
        worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
        metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
        profiles = await warm_up_buckets(
            worker,
            "m",
            metadata,
            layout_of(metadata),
            WarmupPlan(sizes, 3),
            resolve_padding("m", RULES, metadata),
        )
        await worker.close(5.0)
        shapes = [call.batch.inputs["X"].shape for call in fake.calls if call.batch is not None]
        return profiles, shapes

    return call


async def test_every_bucket_the_largest_and_the_smallest_first(warm_up):
    profiles, shapes = await warm_up(1, 4)
    assert [bucket for bucket, _ in profiles] == [((n, 3),) for n in (8, 2, 4, 6)]
    assert [[rows for rows, _ in profile] for _, profile in profiles] == [[1, 4]] * 4
    each = 1 + TIMED_BATCHES
    assert shapes[: 2 * each] == [(1, 8, 3)] * each + [(4, 8, 3)] * each


async def test_without_batch_sizes_there_is_no_warm_up(warm_up):
    assert await warm_up() == ((), [])


async def test_no_bucket_starts_after_the_time_limit(warm_up, monkeypatch):
    clock = iter(range(0, 10_000 * SECOND, SECOND))
    monkeypatch.setattr(warmup, "monotonic_ns", lambda: next(clock))
    monkeypatch.setattr(warmup, "BUCKETS_NS", 3 * SECOND)
    monkeypatch.setattr(warmup, "TIMED_NS", 0)
    profiles, shapes = await warm_up(1)
    # A look at the clock at the start and before each bucket.
    assert [bucket for bucket, _ in profiles] == [((8, 3),), ((2, 3),)]
    assert len(shapes) == 4, "a size that has taken its time is not timed again"


SPECS = (
    TensorSpec("X", "FP32", (-1, 3)),
    TensorSpec("words", "BYTES", (-1, -1)),
    TensorSpec("n", "INT64", (-1,)),
    TensorSpec("scale", "FP16", (-1, 1), optional=True),
)


def test_a_sample_is_zeros_and_empty_texts_without_optional_inputs():
    inputs = Sample("m", SPECS, {}).request(2, plain_shapes(SPECS, 4)).inputs
    assert set(inputs) == {"X", "words", "n"}
    assert np.array_equal(inputs["X"].array, np.zeros((2, 3), np.float32))
    assert inputs["words"].array.tolist() == [[b""] * 4] * 2
    assert inputs["n"].array.tolist() == [0, 0]


def test_a_sample_holds_the_values_that_are_given_in_every_row():
    given = {"X": (1, 2.5), "words": ("a", "bc"), "n": 7, "scale": 0.5}
    inputs = Sample("m", SPECS, given).request(2, plain_shapes(SPECS, 3)).inputs
    assert inputs["X"].array.tolist() == [[1, 2.5, 1]] * 2
    assert inputs["words"].array.tolist() == [[b"a", b"bc", b"a"]] * 2
    assert inputs["n"].array.tolist() == [7, 7]
    assert inputs["scale"].array.tolist() == [[0.5], [0.5]]
    assert [tensor.array.dtype for tensor in inputs.values()] == ["f4", "O", "i8", "f2"]
    assert all(tensor.array.flags.c_contiguous for tensor in inputs.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Y": 1}, r"warmup.inputs: got 'Y'; allowed: X, words, n, scale"),
        ({"X": "a"}, r"warmup.inputs.X: got 'a'; allowed: a number, for FP32"),
        ({"words": 3}, r"warmup.inputs.words: got 3; allowed: text, for BYTES"),
        ({"n": 0.5}, r"warmup.inputs.n: got 0.5; allowed: a whole number"),
        ({"X": (1, 2, 3, 4)}, r"allowed: at most 3 values, one row of shape \[3\]"),
        ({"n": (1, 2)}, r"allowed: at most 1 values, one row of shape \[\]"),
    ],
)
def test_values_that_do_not_fit_the_model_are_named(given, message):
    with pytest.raises(ModelLoadError, match=message):
        Sample("m", SPECS, given)


def test_optional_inputs_that_are_given_get_their_bucket():
    spec = TensorSpec("mask", "INT64", (-1, -1), optional=True)
    metadata = ModelMetadata("fake", (*METADATA.inputs, spec), ())
    rules = PaddingRules((*RULES.axes, AxisRule("mask", 1, 0, (2, 4, 6, 8))), (), "")
    padding = resolve_padding("m", rules, metadata)
    assert padding.warm_buckets(3)[0] == ((2, 3), ())
    assert padding.warm_buckets(3, {"mask": 1})[0] == ((2, 3), (2,))


@pytest.fixture
def refused():
    """What is said of a warm-up whose every batch raises that error."""

    async def call(error, inputs=None, *, length=DEFAULT_LENGTH, kind=ModelLoadError):
        fake = FakeExecutor()
        fake.fail_next(error)
        worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
        metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
        plan = WarmupPlan((1,), length, inputs or {})
        with pytest.raises(kind) as caught:
            await warmup.warm_up(worker, "m", metadata, layout_of(metadata), plan)
        await worker.close(5.0)
        return str(caught.value)

    return call


async def test_a_warm_up_that_fails_names_the_remedy(refused):
    message = await refused(ZeroDivisionError("division by zero"))
    assert message == (
        "m: the warm-up batch of 1 rows failed: ZeroDivisionError: division by zero (it contained zeros"
        " and empty texts; if these do not suit the model, set warmup.inputs, or skip"
        " the warm-up with warmup.batch_sizes: [])"
    )
    assert "the values in warmup.inputs" in await refused(ValueError("x"), {"X": 1})
    assert "warmup.inputs" not in await refused(ExecutionError("out of memory", cause="device"))


async def test_a_warm_up_without_memory_is_a_load_without_memory(refused):
    message = await refused(MemoryError("9 GiB"), kind=OutOfMemory)
    assert "of 1 rows failed: MemoryError: 9 GiB (the device has no memory for it" in message
    assert "lower batching.max_batch_size" in message


async def test_a_length_without_variable_axes_is_refused(refused):
    assert WarmupConfig().length == DEFAULT_LENGTH, "a default is no wish"
    message = await refused(ValueError("never"), length=8)
    assert message.startswith(
        "model 'm': warmup.length: got 8; allowed: a length only where an input has a variable axis"
    )


async def test_a_length_beside_axes_that_are_all_padded_is_refused():
    rules = PaddingRules((*RULES.axes, AxisRule("X", 2, 0, (4,))), (), "")
    fake = FakeExecutor(metadata=METADATA)
    worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
    metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    padding = resolve_padding("m", rules, metadata)
    with pytest.raises(ModelLoadError, match=r"warmup\.length: got 8"):
        await warm_up_buckets(worker, "m", metadata, None, WarmupPlan((1,), 8), padding)
    await worker.close(5.0)


async def test_row_errors_in_the_warm_up_are_logged(caplog):
    fake = FakeExecutor()
    fake.fail_rows_next({0: "input 'X' must be a number"})
    worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
    metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    await warmup.warm_up(worker, "m", metadata, layout_of(metadata), WarmupPlan((1,), 16))
    await worker.close(5.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        "m: the warm-up batch of 1 rows failed: input 'X' must be a number (it contained"
    )


async def test_the_first_axis_of_a_model_without_a_batch_axis_takes_a_length():
    whole = TensorSpec("X", "FP32", (-1, 2), batched=False)
    answer = TensorSpec("Y", "FP32", (-1, 2), batched=False)
    fake = FakeExecutor(metadata=ModelMetadata("fake", (whole,), (answer,)))
    worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
    metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    await warmup.warm_up(worker, "m", metadata, layout_of(metadata), WarmupPlan((1,), 5))
    await worker.close(5.0)
    assert {c.batch.inputs["X"].shape for c in fake.calls if c.batch is not None} == {(5, 2)}


def test_inputs_without_rows_are_warmed_up_in_their_own_shape():
    specs = (
        TensorSpec("X", "FP32", (-1, -1)),
        TensorSpec("b", "FP32", (-1, 2), batched=False),
        TensorSpec("scale", "INT64", (), batched=False),
    )
    shapes = plain_shapes(specs, 3)
    request = Sample("m", specs, {"b": (1, 2), "scale": 7}).request(4, shapes)
    assert {name: tensor.array.shape for name, tensor in request.inputs.items()} == {
        "X": (4, 3),
        "b": (3, 2),
        "scale": (),
    }
    assert request.inputs["b"].array.tolist() == [[1, 2]] * 3
    assert request.inputs["scale"].array == 7


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("overloaded", BackendUnavailable),
        ("unavailable", BackendUnavailable),
        ("device", ModelLoadError),
        ("unknown", ModelLoadError),
    ],
)
async def test_a_backend_that_turns_a_warm_up_batch_away_may_take_it_later(cause, kind):
    fake = FakeExecutor()
    fake.fail_next(ExecutionError("not now", cause=cause))
    worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
    metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    with pytest.raises(ModelLoadError, match="warm-up batch of 1 rows failed: not now") as caught:
        await warmup.warm_up(worker, "m", metadata, layout_of(metadata), WarmupPlan((1,), 16))
    assert type(caught.value) is kind
    assert ("warmup.inputs" in str(caught.value)) == (cause == "unknown")
    await worker.close(5.0)
