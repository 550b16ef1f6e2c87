"""Batches: every datatype, two at once, memory that is used again, and failures."""

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs OpenVINO: make runtimes runs it")
pytest.importorskip("onnx")

import onnx

from batcher.executor import Batch, ExecutionError

T = onnx.TensorProto


@pytest.mark.parametrize(
    ("kind", "datatype", "dtype"),
    [
        (T.BOOL, "BOOL", np.bool_),
        (T.UINT8, "UINT8", np.uint8),
        (T.UINT16, "UINT16", np.uint16),
        (T.UINT32, "UINT32", np.uint32),
        (T.UINT64, "UINT64", np.uint64),
        (T.INT8, "INT8", np.int8),
        (T.INT16, "INT16", np.int16),
        (T.INT32, "INT32", np.int32),
        (T.INT64, "INT64", np.int64),
        (T.FLOAT16, "FP16", np.float16),
        (T.FLOAT, "FP32", np.float32),
        (T.DOUBLE, "FP64", np.float64),
        (T.BFLOAT16, "BF16", np.uint16),
    ],
)
def test_every_datatype(load, models, kind, datatype, dtype):
    executor, metadata = load(models.identity(kind))
    assert (metadata.inputs[0].datatype, metadata.outputs[0].datatype) == (datatype, datatype)
    given = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    if datatype == "BF16":
        given = np.array([[0x3F80, 0x4000], [0xC040, 0x0000]], np.uint16)
    answer = executor.execute(Batch({"X": given}, len(given))).outputs["Y"]
    assert answer.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(answer, given)


def batch(rows, value=1.0):
    return Batch({"X": np.full((rows, 3), value, np.float32)}, rows)


def test_a_batch_is_started_while_another_runs(load, models):
    executor, _ = load(models.matmul(), performance_hint="throughput", streams=2)
    first, second = executor.submit(batch(2)), executor.submit(batch(3, 2.0))
    assert first.request is not second.request
    assert executor.collect(first).outputs["Y"].tolist() == [[6, 9]] * 2
    third = executor.submit(batch(1, 3.0))
    assert third.request is first.request, "a request that is done is used again"
    assert executor.collect(second).outputs["Y"].tolist() == [[12, 18]] * 3
    assert executor.collect(third).outputs["Y"].tolist() == [[18, 27]]


def test_one_batch_after_the_other_needs_no_second_thread(load, models):
    executor, _ = load(models.matmul())
    assert not hasattr(executor, "submit")


def test_memory_that_it_allocates_is_used_as_it_is(load, models):
    executor, _ = load(models.matmul())
    memory = executor.allocate("X", (8, 3), np.dtype(np.float32))
    assert memory.shape == (8, 3)
    assert memory.flags.c_contiguous
    assert memory.flags.writeable
    assert memory.ctypes.data % 64 == 0
    memory[:] = 2
    assert executor.execute(Batch({"X": memory[:2]}, 2)).outputs["Y"].tolist() == [[12, 18]] * 2
    (request,) = executor._requests._idle
    assert request.get_input_tensor(0).data.ctypes.data == memory.ctypes.data


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_a_copy_of_an_input_lives_as_long_as_its_batch(load, models, hint):
    executor, _ = load(models.matmul(), performance_hint=hint)
    rows = 100_000
    given = np.ones((rows, 3), np.float32)
    given.flags.writeable = False  # as a view of a message is: OpenVINO cannot share it
    for value in range(3):
        made = Batch({"X": given}, rows)
        if hint == "latency":
            result = executor.execute(made)
        else:
            running = executor.submit(made)
            np.full((rows, 3), value, np.float32)  # would take the memory of an array that is gone
            result = executor.collect(running)
        assert (result.outputs["Y"] == [6, 9]).all()


def test_only_outputs_that_are_wanted_are_copied(load, models):
    executor, _ = load(models.biased(), batched={"b": False})
    inputs = {"X": -np.ones((2, 4), np.float32), "b": np.arange(4, dtype=np.float32)}
    assert set(executor.execute(Batch(inputs, 2, outputs=frozenset({"SIZE"}))).outputs) == {"SIZE"}


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_lengths_that_the_model_refuses_are_the_inputs(load, models, hint):
    executor, _ = load(models.masked(), performance_hint=hint)
    inputs = {"X": np.ones((2, 3), np.float32), "MASK": np.ones((2, 4), np.float32)}

    def run(given):
        made = Batch(given, 2)
        if hint == "latency":
            return executor.execute(made)
        return executor.collect(executor.submit(made))

    for _ in range(3):
        with pytest.raises(ExecutionError) as caught:
            run(inputs)
        assert caught.value.cause == "input"
        assert "\n" not in str(caught.value)
    inputs["MASK"] = np.ones((2, 3), np.float32)
    assert run(inputs).outputs["SUM"].tolist() == [3, 3]
    assert len(executor._requests._idle) == 1, "a request that failed is used again"


def test_shapes_that_do_not_go_together_are_compiled_when_they_are_seen(load, models, monkeypatch):
    buckets = {"X": {1: (1, 4)}, "MASK": {1: (1, 4)}}
    executor, _ = load(models.masked(), static_shapes=True, sizes=(2,), buckets=buckets)
    mixed = {"X": np.ones((2, 4), np.float32), "MASK": np.ones((2, 1), np.float32)}
    assert executor.execute(Batch(mixed, 2)).outputs["SUM"].tolist() == [4, 4]
    assert len(executor._by_shape) == 3
    monkeypatch.setattr("batcher_openvino.executor.MOST_SHAPES", 3)
    with pytest.raises(ExecutionError, match="compiled for 3 shapes already"):
        executor.execute(Batch(mixed | {"X": np.ones((2, 1), np.float32), "MASK": mixed["X"]}, 2))
