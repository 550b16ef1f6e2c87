"""Gathering rows into a batch, checking a result, and scattering it."""

import asyncio
import threading
import time

import numpy as np
import pytest

from batcher.core.events import FailureCause
from batcher.executor import (
    MAX_RETRY_AFTER_NS,
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    OutOfMemory,
    TensorSpec,
)
from batcher.runtime.execution.execute import (
    ExecutedBatch,
    check_result,
    execute,
    execute_async,
    set_failure,
)
from batcher.runtime.execution.gather import LARGE_BATCH, Slice, gather
from batcher.runtime.execution.scatter import join, joinable, scatter
from batcher.runtime.execution.worker import make_worker
from batcher.runtime.instances.warmup import run_batch
from batcher.runtime.interface.layout import Layout, layout_of
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor
from batcher.testing import FakeExecutor

LAYOUT = Layout({"Y": "FP32"})


def request(parameters=None, **arrays):
    tensors = {name: Tensor("FP32", np.asarray(a, np.float32)) for name, a in arrays.items()}
    return InferenceRequest("m", tensors, 0, parameters=parameters)


def test_an_input_without_a_batch_axis_is_passed_on_unchanged():
    layout = Layout({"Y": "FP32"}, frozenset({"b"}))
    first = request(X=[[1], [2], [3]], b=[9, 8])
    slices = [Slice(first, 1, 3), Slice(request(X=[[4]], b=[9, 8]), 0, 1)]
    batch = gather(slices, layout)
    assert batch.rows == 3
    assert batch.inputs["X"].tolist() == [[2], [3], [4]]
    assert batch.inputs["b"] is first.inputs["b"].array


def test_the_executor_gets_the_parameters_that_it_reads():
    layout = Layout({"Y": "FP32"}, parameters=("beam", "mode"))
    each = request({"trace_id": "7", "beam": 4}, X=[[1]])
    assert gather([Slice(each, 0, 1)], layout).parameters == {"beam": 4}
    assert gather([Slice(request(X=[[1]]), 0, 1)], layout).parameters == {}


def test_an_executor_with_fixed_rows_gets_full_batches():
    layout = Layout({"Y": "FP32"}, frozenset({"b"}), batch_sizes=(4,))
    slices = [Slice(request(X=[[n], [n + 10]], b=[9]), 0, 2) for n in (1, 2)]
    assert gather(slices, layout).inputs["X"].tolist() == [[1], [11], [2], [12]]
    batch = gather(slices[:1], layout)
    assert (batch.rows, batch.inputs["b"].tolist()) == (4, [9])
    assert batch.inputs["X"].tolist() == [[1], [11], [11], [11]]
    result = check_result(BatchResult({"Y": batch.inputs["X"]}, {3: "no"}), batch, layout)
    assert scatter(result, 0, 2, None, layout)["Y"].array.tolist() == [[1], [11]]
    with pytest.raises(ExecutionError, match=r"\[2, 1\], and axis 0 should be 4 long"):
        check_result(BatchResult({"Y": np.zeros((2, 1), np.float32)}), batch, layout)


@pytest.mark.parametrize(("rows", "filled"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 5)])
def test_a_batch_is_filled_up_to_the_next_size(rows, filled):
    layout = Layout({"Y": "FP32"}, batch_sizes=(2, 4))
    batch = gather([Slice(request(X=[[n] for n in range(rows)]), 0, rows)], layout)
    numbers = [*range(rows), *[rows - 1] * (filled - rows)]
    assert batch.rows == filled
    assert batch.inputs["X"].tolist() == [[n] for n in numbers]


@pytest.mark.parametrize("coroutine", [False, True])
async def test_a_worker_fills_batches_for_an_executor_with_fixed_rows(coroutine):
    class Full(FakeExecutor):
        capabilities = Capabilities(dynamic_rows=False)

    class Remote:
        capabilities = Full.capabilities

        def __init__(self, inner):
            self.inner = inner

        async def load(self, context):
            return self.inner.load(context)

        async def execute(self, batch):
            return self.inner.execute(batch)

        async def close(self):
            pass

    fake = Full(columns=1)
    executor = Remote(fake) if coroutine else fake
    worker = make_worker(executor, "m", asyncio.get_running_loop(), time.monotonic_ns)
    metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 4, {}))
    slices = [Slice(request(X=[[3]]), 0, 1)]
    executed = await run_batch(worker, slices, layout_of(metadata))
    assert fake.batch_sizes == [4]
    found = scatter(executed.result, 0, 1, None, layout_of(metadata))
    assert found["Y"].array.tolist() == [[6]]
    executed.release()
    await worker.close(5.0)


def test_arrays_of_a_model_without_a_batch_axis_stay_whole():
    layout = Layout({"Y": "FP32"}, frozenset({"X"}), batched=False)
    each = request(X=[[1, 2, 3]])
    batch = gather([Slice(each, 0, 1)], layout)
    assert (batch.rows, batch.inputs["X"].shape) == (1, (1, 3))
    for answer in (np.float32(5), np.zeros((0, 2), np.float32), np.ones((4, 3), np.float32)):
        result = check_result(BatchResult({"Y": np.asarray(answer)}), batch, layout)
        (found,) = scatter(result, 0, 1, None, layout).values()
        assert found.array.shape == np.asarray(answer).shape


def refused(result, rows=2, layout=LAYOUT):
    with pytest.raises(ExecutionError) as caught:
        check_result(result, Batch({}, rows), layout)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (0, 1), ()])
def test_an_output_with_a_wrong_number_of_rows_is_refused_and_released(shape):
    released = []
    result = BatchResult({"Y": np.zeros(shape, np.float32)}, release=lambda: released.append(1))
    assert f"its shape is {list(shape)}, and axis 0 should be 2 long" in refused(result)
    assert released == [1]


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "a wrong output 'Y': it is missing"),
        ({"y": np.zeros((2, 1), np.float32)}, "a wrong output 'Y': it is missing"),
        ({"Y": [[1.0], [2.0]]}, "it is of type list, not a numpy array"),
        ({"Y": np.zeros((2, 1))}, "its dtype is float64, not float32"),
        (
            {"Y": np.zeros(2, np.float32)},
            "its shape is [2], and the model's is [2, -1, 3] for 2 rows",
        ),
        ({"Y": np.zeros((2, 5, 4), np.float32)}, "its shape is [2, 5, 4], and the model's is"),
        (
            {"Y": np.zeros((2, 5, 3, 1), np.float32)},
            "its shape is [2, 5, 3, 1], and the model's is",
        ),
    ],
)
def test_an_output_that_is_missing_or_of_another_kind_is_named(outputs, said):
    layout = Layout({"Y": "FP32"}, inner={"Y": (-1, 3)})
    assert said in refused(BatchResult(outputs), layout=layout)


def test_an_output_may_be_as_long_as_it_likes_where_its_axis_varies():
    spec = TensorSpec("Y", "FP32", (-1, -1, 3))
    layout = layout_of(ModelMetadata("m", (TensorSpec("X", "FP32", (-1, 1)),), (spec,)))
    for length in (0, 1, 7):
        result = BatchResult({"Y": np.zeros((2, length, 3), np.float32)})
        assert check_result(result, Batch({}, 2), layout) is result


@pytest.mark.parametrize("row", [-1, 2, "0"])
def test_an_error_for_a_row_beyond_the_batch_is_refused(row):
    result = BatchResult({"Y": np.zeros((2, 1), np.float32)}, {row: "no"})
    assert refused(result) == f"the executor returned an error for row {row!r} of a batch of 2 rows"


def test_a_result_whose_check_raises_is_released():
    released = []
    with pytest.raises(AttributeError):
        check_result(BatchResult(None, release=lambda: released.append(1)), Batch({}, 1), LAYOUT)
    assert released == [1]


def test_outputs_from_reused_buffers_are_copies():
    buffer = bytearray(b"one")
    texts = np.array([[memoryview(buffer)], [buffer], [b"two"]], np.object_)
    result = BatchResult({"Y": texts}, release=buffer.clear)
    layout = Layout({"Y": "BYTES"})
    (taken,) = scatter(result, 0, 2, None, layout).values()
    texts[:] = None
    result.release()
    assert taken.array.tolist() == [[b"one"], [b"one"]]


def pieces(*arrays, datatype="FP32"):
    starts = np.cumsum([0, *map(len, arrays[:-1])]).tolist()
    found = {start: {"Y": Tensor(datatype, a)} for start, a in zip(starts, arrays, strict=True)}
    return dict(reversed(found.items()))


def test_parts_are_joined_in_the_order_of_their_rows():
    arrays = [np.full((n, 2), n, np.float32) for n in (3, 1, 2)]
    (joined,) = join(joinable(pieces(*arrays))).values()
    assert joined.array[:, 0].tolist() == [3, 3, 3, 1, 2, 2]
    texts = [np.array([[b"a"]], np.object_), np.array([[b"bc"]], np.object_)]
    (joined,) = join(joinable(pieces(*texts, datatype="BYTES"))).values()
    assert joined.array.tolist() == [[b"a"], [b"bc"]]


@pytest.mark.parametrize("other", [(1, 4), (1,), (1, 3, 1), (1, 0)])
def test_parts_of_different_shapes_cannot_be_joined(other):
    with pytest.raises(ExecutionError) as caught:
        joinable(pieces(np.zeros((2, 3), np.float32), np.zeros(other, np.float32)))
    message = str(caught.value)
    assert "in 2 batches, and output 'Y' has different shapes in them" in message
    assert str([-1, *other[1:]]) in message
    assert "[-1, 3]" in message


ROWS = LARGE_BATCH // 1024
"""Rows of 1 KiB that are not yet a large batch."""


def test_a_kept_exception_does_not_keep_its_batch_in_memory():
    error = ValueError("no")

    class Keeping:
        def execute(self, batch):
            raise error

    each = Slice(request(X=[[1]]), 0, 1)
    executed = execute(Keeping(), [each], LAYOUT, time.monotonic_ns, lambda: None)

    assert executed.failure == "ValueError: no"
    assert error.__traceback__ is None


class Reusing:
    """An executor that wants its arrays back."""

    def __init__(self):
        self.released = 0

    def execute(self, batch):
        self.array = batch.inputs["X"] * 2
        return BatchResult({"Y": self.array, "unknown": None}, release=self._release)

    def _release(self):
        self.released += 1


@pytest.mark.parametrize(("rows", "copied"), [(ROWS, False), (ROWS + 1, True)])
def test_a_large_result_in_reused_buffers_is_copied_on_the_thread(rows, copied):
    executor = Reusing()
    each = Slice(request(X=np.ones((rows, 256))), 0, rows)

    executed = execute(executor, [each], LAYOUT, time.monotonic_ns, lambda: None)

    assert executor.released == copied
    assert np.shares_memory(executed.result.outputs["Y"], executor.array) is not copied
    executed.release()
    assert executor.released == 1


@pytest.mark.parametrize(("rows", "beside"), [(ROWS, False), (ROWS + 1, True)])
async def test_a_large_batch_of_an_async_executor_is_gathered_on_a_thread(
    monkeypatch, rows, beside
):
    threads = []

    class Coroutine:
        async def execute(self, batch):
            return BatchResult({"Y": batch.inputs["X"]})

    def watched(slices, layout):
        threads.append(threading.current_thread() is not threading.main_thread())
        return gather(slices, layout)

    monkeypatch.setattr("batcher.runtime.execution.execute.gather", watched)
    each = Slice(request(X=np.ones((rows, 256))), 0, rows)

    executed = await execute_async(Coroutine(), [each], LAYOUT, time.monotonic_ns)

    assert executed.result.outputs["Y"].shape == (rows, 256)
    assert threads == [beside]


class Bare(ExecutionError):
    def __init__(self):  # without those of its base class
        pass

    def __str__(self):
        raise RuntimeError("no text")


def told(**attributes):
    error = ExecutionError("busy", cause="overloaded", retry_after_ns=5)
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "cause", "retry_after_ns", "failure"),
    [
        (told(), FailureCause.OVERLOADED, 5, "busy"),
        (told(cause="abandoned"), FailureCause.UNKNOWN, 5, "busy"),
        (told(cause=["?"]), FailureCause.UNKNOWN, 5, "busy"),
        (told(retry_after_ns="soon"), FailureCause.OVERLOADED, None, "busy"),
        (told(retry_after_ns=-1), FailureCause.OVERLOADED, 0, "busy"),
        (told(retry_after_ns=2**80), FailureCause.OVERLOADED, MAX_RETRY_AFTER_NS, "busy"),
        (Bare(), FailureCause.UNKNOWN, None, "Bare"),
    ],
)
def test_what_an_error_says_is_not_trusted(error, cause, retry_after_ns, failure):
    executed = ExecutedBatch(0)
    set_failure(executed, error, lambda: 7)
    found = executed.cause, executed.retry_after_ns, executed.failure
    assert found == (cause, retry_after_ns, failure)


@pytest.mark.parametrize(
    "error", [ExecutionError("full", cause="memory"), MemoryError("full"), OutOfMemory("full")]
)
def test_a_batch_without_memory_is_told_from_others(error):
    executed = ExecutedBatch(0)
    set_failure(executed, error, lambda: 7)
    assert executed.cause is FailureCause.MEMORY
    assert "full" in executed.failure
    assert executed.what_follows == "they run again in smaller batches, or fail"


def test_an_error_has_a_known_cause_and_a_bounded_delay():
    assert ExecutionError("x", cause="unavailable", retry_after_ns=2**80).retry_after_ns == (
        MAX_RETRY_AFTER_NS
    )
    with pytest.raises(ValueError, match="cause must be one of"):
        ExecutionError("x", cause="abandoned")
    with pytest.raises(ValueError, match="must not be negative"):
        ExecutionError("x", cause="overloaded", retry_after_ns=-1)


async def test_a_batch_knows_the_last_deadline_of_its_requests():
    def batch(*deadlines):
        requests = [
            InferenceRequest("m", request(X=[[1]]).inputs, 0, deadline_ns=each)
            for each in deadlines
        ]
        return gather([Slice(each, 0, 1) for each in requests], LAYOUT)

    assert batch(5, 9, 7).deadline_ns == 9
    assert batch(5, None).deadline_ns is None
    assert batch(None).deadline_ns is None
