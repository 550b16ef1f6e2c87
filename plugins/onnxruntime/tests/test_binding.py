"""IO binding, on the CPU: the same code with memory of another device."""

import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from batcher.errors import ModelLoadError
from batcher.executor import Batch, TensorSpec
from batcher.testing import ExecutorContract
from batcher_onnxruntime import OnnxRuntimeExecutor, binding
from batcher_onnxruntime.binding import BoundSession
from batcher_onnxruntime.pinned import pinned

needs_bfloat16 = pytest.mark.skipif(
    not hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type"),
    reason="this onnxruntime takes no bfloat16",
)


def bfloat16(values):
    """The upper halves of float32 values: bfloat16, cut."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


class Pipelined(OnnxRuntimeExecutor):
    """What the executor does on a GPU, on a CPU: batches in given memory, in two halves."""

    def load(self, context):
        metadata = super().load(context)
        self.submit, self.collect = self._submit, self._collect
        self.allocate = lambda _name, shape, dtype: pinned(shape, dtype, None)
        return metadata


class Bound(ExecutorContract):
    max_batch_size = 5

    def make_executor(self):
        return OnnxRuntimeExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    @pytest.fixture
    def options(self, models):
        return {"path": models.matmul().name, "io_binding": True}


class TestBound(Bound):
    pass


class TestPipelined(Bound):
    def make_executor(self):
        return Pipelined()


class TestPipelinedFixedRows(TestPipelined):
    @pytest.fixture
    def options(self, models):
        return {"path": models.matmul(rows=5).name, "io_binding": True}


class TestPipelinedSharedInput(TestPipelined):
    batched = {"b": False}  # noqa: RUF012 - a test's constant

    def make_inputs(self, rows, rng):
        shared = np.arange(4, dtype=np.float32)
        return {"X": rng.standard_normal((rows, 4), np.float32), "b": shared}

    @pytest.fixture
    def options(self, models):
        return {"path": models.biased().name, "io_binding": True}


class TestBoundVariableAxis(Bound):
    def make_inputs(self, rows, rng):
        return {"IDS": rng.integers(0, 5, (rows, 3))}

    def bad_inputs(self):
        return {"IDS": np.array([[1, 77]])}

    @pytest.fixture
    def options(self, models):
        return {"path": models.lookup().name, "io_binding": True}


@needs_bfloat16
class TestBFloat16(Bound):
    def make_inputs(self, rows, rng):
        return {"X": bfloat16(rng.standard_normal((rows, 2)))}

    @pytest.fixture
    def options(self, models):
        return {"path": models.identity(TensorProto.BFLOAT16).name}


@needs_bfloat16
def test_bfloat16_is_computed_with(models, load):
    path = models.write(
        "widen",
        [
            helper.make_node("Cast", ["X"], ["F"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["F", "F"], ["G"]),
            helper.make_node("Cast", ["G"], ["Y"], to=TensorProto.BFLOAT16),
        ],
        {"X": (TensorProto.BFLOAT16, ["rows", 2])},
        {"Y": (TensorProto.BFLOAT16, ["rows", 2])},
    )
    executor, metadata = load(path)
    assert metadata.inputs[0].datatype == metadata.outputs[0].datatype == "BF16"
    given = bfloat16([[1.5, -2.0], [0.25, 96.0]])
    answer = executor.execute(Batch({"X": given}, 2)).outputs["Y"]
    assert answer.tolist() == bfloat16([[3.0, -4.0], [0.5, 192.0]]).tolist()


def test_bound_answers_are_bit_equal_to_plain_ones(models, load):
    plain, _ = load(models.several())
    bound, metadata = load(models.several(), io_binding=True)
    assert metadata.properties["io_binding"] == "cpu"
    rng = np.random.default_rng(3)
    for rows in (1, 3, 8, 3, 1):
        square = rng.standard_normal((2, rows, 2, 2)).astype(np.float32)
        inputs = {"A": square[0], "B": square[1], "C": rng.integers(-9, 9, rows)}
        for outputs in (None, frozenset({"SIZE"})):
            batch = Batch(inputs, rows, outputs=outputs)
            expected = plain.execute(batch).outputs
            found = bound.execute(batch).outputs
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def session(models):
    path = models.identity(TensorProto.FLOAT)
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


SPECS = (TensorSpec("X", "FP32", (-1, 2)),), (TensorSpec("Y", "FP32", (-1, 2)),)


def rows_of(*values):
    return np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_batch_is_copied_in_while_another_waits_to_run(session, graphs):
    bound = BoundSession(session, *SPECS, graphs=graphs)
    memory = rows_of(1, 2)
    first = bound.copy_in({"X": memory}, ["Y"])
    memory[:] = 7
    second = bound.copy_in({"X": memory}, ["Y"])
    memory[:] = 0
    answers = [bound.run(first)["Y"], bound.run(second)["Y"]]
    third = bound.run(bound.copy_in({"X": rows_of(5, 5)}, ["Y"]))["Y"]
    assert [each.tolist() for each in answers] == [rows_of(1, 2).tolist(), rows_of(7, 7).tolist()]
    assert third.tolist() == rows_of(5, 5).tolist()


def test_memory_of_a_shape_is_used_again_and_that_of_old_ones_dropped(session, monkeypatch):
    monkeypatch.setattr(binding, "MOST_SHAPES", 2)
    bound = BoundSession(session, *SPECS)
    makes = []
    memory = bound._memory
    monkeypatch.setattr(bound, "_memory", lambda *given: makes.append(given) or memory(*given))
    for rows in (1, 2, 1, 2, 3, 3, 1):
        bound.run(bound.copy_in({"X": rows_of(*range(rows))}, ["Y"]))
    assert [shape for shape, _ in makes] == [(1, 2), (2, 2), (3, 2), (1, 2)]
    bound.clear()
    bound.run(bound.copy_in({"X": rows_of(1)}, ["Y"]))
    assert len(makes) == 5


@pytest.mark.parametrize("graphs", [False, True])
def test_after_a_run_that_failed_its_memory_is_dropped_and_a_graph_kept(session, graphs):
    bound = BoundSession(session, *SPECS, graphs=graphs)
    copied = bound.copy_in({"X": rows_of(1)}, ["Y"])
    run_options = copied.bound.run_options
    run_options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        bound.run(copied)
    run_options.terminate = False
    again = bound.copy_in({"X": rows_of(2)}, ["Y"])
    assert (again.bound is copied.bound) is graphs
    assert bound.run(again)["Y"].tolist() == rows_of(2).tolist()
    bound.free_unused()
    assert (bound.copy_in({"X": rows_of(2)}, ["Y"]).bound is again.bound) is graphs


def test_each_memory_of_a_graph_has_an_id_of_its_own(session):
    bound = BoundSession(session, *SPECS, graphs=True)
    copied = [bound.copy_in({"X": rows_of(*range(n))}, ["Y"]) for n in (1, 1, 2)]
    ids = [each.bound.run_options.get_run_config_entry("gpu_graph_id") for each in copied]
    assert ids == ["1", "2", "3"]
    for each in copied:
        bound.run(each)
    assert bound.copy_in({"X": rows_of(9)}, ["Y"]).bound is copied[1].bound


def test_halves_on_two_threads(session):
    bound = BoundSession(session, *SPECS)
    found = []
    for number in range(50):
        copied = bound.copy_in({"X": rows_of(number)}, ["Y"])
        thread = threading.Thread(target=lambda each=copied: found.append(bound.run(each)["Y"]))
        thread.start()
        following = bound.copy_in({"X": rows_of(-number)}, ["Y"])
        thread.join()
        found.append(bound.run(following)["Y"])
    assert [each[0, 0] for each in found] == [s * n for n in range(50) for s in (1, -1)]


def test_text_cannot_be_bound(models, load):
    with pytest.raises(ModelLoadError, match="option io_binding: got true for a model with"):
        load(models.identity(TensorProto.STRING), io_binding=True)
