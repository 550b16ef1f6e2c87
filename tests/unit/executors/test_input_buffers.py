"""Batches are gathered into memory that the executor allocates, and nothing is corrupted by it."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from batcher.core.events import FailureCause
from batcher.executor import Batch, BatchResult, ExecutionError
from batcher.executors.input_buffers import (
    MOST_ARRAYS,
    MOST_BYTES,
    InputBuffers,
    input_buffers,
)
from batcher.runtime.execution.execute import execute
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.execution.scatter import scatter
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padded
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor
from batcher.testing import FakeExecutor

FP32 = np.dtype(np.float32)
LAYOUT = Layout({"Y": "FP32"})
MOST = 8


class Allocating(FakeExecutor):
    """Keeps what it allocated, oldest first."""

    def __init__(self, allocate=np.empty, **more):
        super().__init__(columns=1, **more)
        self.allocated = []
        self.make = allocate

    def allocate(self, name, shape, dtype):
        array = self.make(shape, dtype)
        self.allocated.append((name, shape, dtype, array))
        return array


def rows_of(*numbers, start=0, stop=None, columns=1, padded=None):
    array = np.repeat(np.asarray(numbers, np.float32)[:, None], columns, axis=1)
    request = InferenceRequest("m", {"X": Tensor("FP32", array)}, 0)
    return Slice(request, start, len(numbers) if stop is None else stop, padded)


def run(executor, buffers, *slices, layout=LAYOUT):
    executed = execute(executor, slices, layout, time.monotonic_ns, lambda: None, buffers)
    if executed.result is None:
        raise ExecutionError(executed.failure, cause=executed.cause.value)
    return executed


def make(executor, **limits):
    return InputBuffers(executor.allocate, MOST, **limits)


def test_batches_of_all_sizes_share_the_array_of_the_largest():
    executor = Allocating()
    buffers = make(executor)
    for sizes in ((1,), (3, 2), (8,), (1, 1, 1)):
        slices = [rows_of(*range(10 * size, 11 * size)) for size in sizes]
        executed = run(executor, buffers, *slices)
        given = [n for size in sizes for n in range(10 * size, 11 * size)]
        assert executed.result.outputs["Y"][:, 0].tolist() == [2 * n for n in given]
        seen = executor.calls[-1].batch.inputs["X"]
        assert np.shares_memory(seen, executor.allocated[0][3])
        assert seen.flags.c_contiguous
    ((name, shape, dtype, _),) = executor.allocated
    assert (name, shape, dtype) == ("X", (MOST, 1), FP32)
    assert buffers.nbytes == MOST * 4


def test_a_batch_is_filled_up_and_padded_in_place():
    executor = Allocating()
    padded = Padded({"X": (3,)}, {"X": np.float32(-1)}, {})
    layout = Layout({"Y": "FP32"}, batch_sizes=(4,))
    slices = [rows_of(1, 2, columns=2, padded=padded), rows_of(3, columns=3, padded=padded)]
    lent = make(executor).lend()
    batch = gather(slices, layout, lent)
    assert batch.rows == 4
    assert batch.inputs["X"].tolist() == [[1, 1, -1], [2, 2, -1], [3, 3, 3], [3, 3, 3]]
    # A shorter batch in the same memory: nothing is left of the one before.
    lent.give_back()
    batch = gather([rows_of(9, columns=1, padded=padded)], layout, lent)
    assert batch.inputs["X"].tolist() == [[9, -1, -1]] * 4
    assert [shape for _, shape, _, _ in executor.allocated] == [(MOST, 3)]


def test_rows_of_a_larger_request_and_unaligned_messages_are_copied_in():
    executor = Allocating()
    data = np.frombuffer(b"\0" + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1)
    request = InferenceRequest("m", {"X": Tensor("FP32", data.reshape(6, 1))}, 0)
    executed = run(executor, make(executor), Slice(request, 2, 5))
    assert executed.result.outputs["Y"][:, 0].tolist() == [4, 6, 8]


def test_an_array_is_never_lent_to_two_batches():
    executor = Allocating()
    buffers = make(executor)
    first, second = buffers.lend(), buffers.lend()
    one = gather([rows_of(1)], LAYOUT, first).inputs["X"]
    two = gather([rows_of(2)], LAYOUT, second).inputs["X"]
    assert not np.shares_memory(one, two)
    first.give_back()
    first.give_back()
    third, fourth = buffers.lend(), buffers.lend()
    assert np.shares_memory(gather([rows_of(3)], LAYOUT, third).inputs["X"], one)
    four = gather([rows_of(4)], LAYOUT, fourth).inputs["X"]
    assert not np.shares_memory(four, one)
    assert not np.shares_memory(four, two)
    assert two.tolist() == [[2]]
    assert len(executor.allocated) == 3


@pytest.mark.parametrize("end", [BatchResult, "raises"])
def test_an_array_is_lent_again_however_a_batch_ends(end):
    executor = Allocating()
    buffers = make(executor)
    for _ in range(3):
        if end == "raises":
            executor.fail_next(ValueError("no"))
        else:
            executor.answer_next(lambda batch: BatchResult({"Y": np.zeros((7, 7), np.float32)}))
        with pytest.raises(ExecutionError):
            run(executor, buffers, rows_of(1))
    assert len(executor.allocated) == 1


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array,
        lambda array: array[::-1],
        lambda array: np.asarray(memoryview(array)),
        lambda array: np.lib.stride_tricks.as_strided(array, array.shape, array.strides),
    ],
)
@pytest.mark.parametrize("reuses", [False, True])
def test_answers_that_are_views_of_inputs_do_not_change_under_later_batches(view, reuses):
    executor = Allocating()
    released = []

    def identity(batch: Batch) -> BatchResult:
        more = {"release": lambda: released.append(1)} if reuses else {}
        return BatchResult({"Y": view(batch.inputs["X"])}, **more)

    executor.default(identity)
    executor.execute = identity  # without the release of a fake
    buffers = make(executor)
    first = run(executor, buffers, rows_of(1, 1, 1))
    run(executor, buffers, rows_of(2, 2, 2))
    answer = scatter(first.result, 0, 3, None, LAYOUT)["Y"].array
    assert answer.tolist() == [[1]] * 3
    assert released == []
    first.release()
    assert released == [1] * reuses
    assert len(executor.allocated) == 1


def test_texts_that_are_views_of_inputs_do_not_change_either():
    executor = Allocating()

    def views(batch: Batch) -> BatchResult:
        rows = np.empty(batch.rows, object)
        rows[:] = [memoryview(row).cast("B") for row in batch.inputs["X"]]
        return BatchResult({"Y": rows})

    executor.execute = views
    buffers = make(executor)
    layout = Layout({"Y": "BYTES"})
    first = run(executor, buffers, rows_of(1), layout=layout)
    run(executor, buffers, rows_of(2), layout=layout)
    assert list(first.result.outputs["Y"]) == [np.float32(1).tobytes()]


def read_only(shape, dtype):
    array = np.empty(shape, dtype)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (lambda shape, dtype: np.empty(shape[1:], dtype), r"its shape is \[1\]"),
        (lambda shape, dtype: np.empty((9, 1), dtype), r"its shape is \[9, 1\]"),
        (lambda shape, dtype: np.empty(shape, np.float64), "its dtype is float64"),
        (lambda shape, dtype: np.empty(shape, ">f4"), "its dtype is >f4"),
        (
            lambda shape, dtype: np.empty((16, 1), dtype)[::2],
            "not C-contiguous, aligned and writable",
        ),
        (read_only, "not C-contiguous, aligned and writable"),
        (lambda shape, dtype: np.broadcast_to(np.zeros((), dtype), shape), "not C-contiguous"),
        (
            lambda shape, dtype: np.empty(33, np.uint8)[1:].view(dtype).reshape(shape),
            "not C-contiguous, aligned",
        ),
        (lambda shape, dtype: None, "it is of type NoneType"),
        (lambda shape, dtype: bytearray(32), "it is of type bytearray"),
    ],
)
def test_a_wrong_array_fails_the_batch_and_says_what_is_wrong(allocate, said):
    executor = Allocating(allocate)
    buffers = make(executor)
    for _ in range(2):
        with pytest.raises(ExecutionError, match=said) as caught:
            run(executor, buffers, rows_of(1))
        assert "allocate('X', [8, 1], float32)" in str(caught.value)
        assert caught.value.cause == FailureCause.DEVICE
    assert not executor.batch_sizes
    assert buffers.nbytes == 0


def test_memory_that_is_in_use_already_is_refused_and_the_other_batch_keeps_its_rows():
    memory = np.empty(64, np.float32)
    executor = Allocating(lambda shape, dtype: memory[: shape[0]].reshape(shape))
    buffers = make(executor)
    held = buffers.lend()
    rows = gather([rows_of(5)], LAYOUT, held).inputs["X"]
    with pytest.raises(ExecutionError, match=r"shares memory with another array .* input 'X'"):
        run(executor, buffers, rows_of(6))
    assert rows.tolist() == [[5]]
    held.give_back()
    assert run(executor, buffers, rows_of(6)).result.outputs["Y"].tolist() == [[12]]


def test_an_allocate_that_raises_fails_the_batch():
    def broken(shape, dtype):
        raise OSError("no driver")

    with pytest.raises(ExecutionError, match=r"allocate\(.*\) raised OSError: no driver"):
        run(executor := Allocating(broken), make(executor), rows_of(1))


@pytest.mark.parametrize("error", [MemoryError("full"), ExecutionError("full", cause="memory")])
def test_without_memory_batches_are_gathered_as_ever_and_it_is_not_asked_again(error, caplog):
    caplog.set_level(logging.WARNING)
    left = [np.empty((MOST, 1), np.float32)]

    def scarce(shape, dtype):
        asked.append(shape)
        if not left:
            raise error
        return left.pop()

    asked = []
    executor = Allocating(scarce)
    buffers = make(executor)
    held = buffers.lend()
    gather([rows_of(5)], LAYOUT, held)
    for _ in range(3):
        assert run(executor, buffers, rows_of(6)).result.outputs["Y"].tolist() == [[12]]
    assert len(asked) == 2
    assert len(caplog.records) == 1
    assert "may take 32 bytes from now on" in caplog.text
    held.give_back()
    run(executor, buffers, rows_of(7))
    assert np.shares_memory(executor.calls[-1].batch.inputs["X"], executor.allocated[0][3])


def test_texts_and_empty_rows_are_never_allocated():
    executor = Allocating(answer=lambda batch: BatchResult({"Y": np.zeros((1, 1), np.float32)}))
    texts = np.array([b"a"], object)
    for array, datatype in ((texts, "BYTES"), (np.zeros((1, 0), np.float32), "FP32")):
        request = InferenceRequest("m", {"X": Tensor(datatype, array)}, 0)
        run(executor, make(executor), Slice(request, 0, 1))
    assert executor.allocated == []


@pytest.mark.parametrize("limits", [{"most_bytes": 3 * MOST * 4}, {"most_arrays": 2}])
def test_what_is_kept_is_bounded_and_a_length_that_comes_once_displaces_nothing(limits):
    executor = Allocating()
    executor.default(lambda batch: BatchResult({"Y": batch.inputs["X"][:, :1].copy()}))
    buffers = make(executor, **limits)

    def columns(count):
        assert run(executor, buffers, rows_of(4, columns=count)).result.outputs["Y"][0, 0] == 4
        return [shape[1] for _, shape, _, _ in executor.allocated]

    assert columns(2) == [2]
    assert columns(1) == [2, 1]
    assert columns(3) == [2, 1]  # there is no room, and it was asked for once
    assert columns(2) == [2, 1]
    assert columns(3) == [2, 1, 3]  # the second time it displaces what was used longest ago
    kept = 1 if "most_bytes" in limits else 2
    assert buffers.nbytes == (3 if kept == 1 else 2 + 3) * MOST * 4
    assert columns(3) == [2, 1, 3]


def test_a_batch_beyond_the_bound_is_gathered_as_ever():
    executor = Allocating()
    executor.default(lambda batch: BatchResult({"Y": batch.inputs["X"][:, :1].copy()}))
    buffers = make(executor, most_bytes=MOST * 4)
    run(executor, buffers, rows_of(1))
    for _ in range(3):
        run(executor, buffers, rows_of(1, columns=50))
    run(executor, buffers, rows_of(1))
    assert len(executor.allocated) == 1


def test_what_is_in_use_is_never_dropped():
    executor = Allocating()
    buffers = make(executor, most_bytes=2 * MOST * 4)
    held = buffers.lend()
    rows = gather([rows_of(1, columns=2)], LAYOUT, held).inputs["X"]
    for _ in range(3):
        run(executor, buffers, rows_of(7, columns=1))
    assert len(executor.allocated) == 1
    held.give_back()
    run(executor, buffers, rows_of(7, columns=1))
    assert len(executor.allocated) == 2
    assert rows.tolist() == [[1, 1]]


def test_batches_that_have_become_larger_get_a_larger_array():
    executor = Allocating()
    buffers = make(executor)
    run(executor, buffers, rows_of(1))
    run(executor, buffers, rows_of(*range(MOST + 2)))
    run(executor, buffers, rows_of(1))
    assert [shape for _, shape, _, _ in executor.allocated] == [(MOST, 1), (MOST + 2, 1)]
    assert buffers.nbytes == (MOST + 2) * 4


def test_all_are_dropped_before_the_executor_is_closed():
    executor = Allocating()
    buffers = make(executor)
    held = buffers.lend()
    gather([rows_of(1)], LAYOUT, held)
    buffers.clear()
    held.give_back()
    assert buffers.nbytes == 0
    run(executor, buffers, rows_of(1))
    assert len(executor.allocated) == 2


def test_the_bounds_are_on_the_page_of_limits(repository):
    page = (repository / "docs" / "limits.md").read_text()
    bounds = f"{MOST_BYTES >> 30} GiB, {MOST_ARRAYS} arrays, of one instance"
    assert f"| memory that an executor allocates for inputs | {bounds} |" in page


def test_only_an_executor_that_allocates_has_buffers():
    assert input_buffers(FakeExecutor(), 8) is None
    assert input_buffers(Allocating(), 0) is None
    assert input_buffers(Allocating(), 8) is not None
