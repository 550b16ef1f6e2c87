"""Small ONNX models, made on the spot."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from batcher.executor import LoadContext
from batcher_onnxruntime import OnnxRuntimeExecutor

OPSET = 17
IR_VERSION = 8


class Models:
    """Writes model files into a folder; every method returns the file's path."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, name, nodes, inputs, outputs, *, weights=None, opset=OPSET, ir=IR_VERSION):
        """`inputs` and `outputs` map names to (element type, shape)."""

        def infos(specs):
            return [helper.make_tensor_value_info(n, t, shape) for n, (t, shape) in specs.items()]

        constants = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
        graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir
        )
        path = self.folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def matmul(self, *, rows="rows", **rest):
        """Y = X W, with X [rows, 3] and W = 0..5 as [3, 2]."""
        return self.write(
            "matmul",
            [helper.make_node("MatMul", ["X", "W"], ["Y"])],
            {"X": (TensorProto.FLOAT, [rows, 3])},
            {"Y": (TensorProto.FLOAT, [rows, 2])},
            weights={"W": np.arange(6, dtype=np.float32).reshape(3, 2)},
            **rest,
        )

    def identity(self, kind, *, shape=("rows", 2), name="identity"):
        """Y = X, of any element type."""
        return self.write(
            name,
            [helper.make_node("Identity", ["X"], ["Y"])],
            {"X": (kind, list(shape))},
            {"Y": (kind, list(shape))},
        )

    def several(self):
        """SUM = A + B and SIZE = |C|, with dtypes and ranks of their own."""
        return self.write(
            "several",
            [
                helper.make_node("Add", ["A", "B"], ["SUM"]),
                helper.make_node("Abs", ["C"], ["SIZE"]),
            ],
            {
                "A": (TensorProto.FLOAT, ["rows", 2, 2]),
                "B": (TensorProto.FLOAT, ["rows", 2, 2]),
                "C": (TensorProto.INT64, ["rows"]),
            },
            {"SUM": (TensorProto.FLOAT, ["rows", 2, 2]), "SIZE": (TensorProto.INT64, ["rows"])},
        )

    def lookup(self):
        """EMBEDDED [rows, seq, 2] = the rows of a table of five that IDS [rows, seq] name."""
        return self.write(
            "lookup",
            [helper.make_node("Gather", ["TABLE", "IDS"], ["EMBEDDED"])],
            {"IDS": (TensorProto.INT64, ["rows", "seq"])},
            {"EMBEDDED": (TensorProto.FLOAT, ["rows", "seq", 2])},
            weights={"TABLE": np.arange(10, dtype=np.float32).reshape(5, 2)},
        )

    def biased(self):
        """Y = X + b, with X [rows, 4] and b [4]."""
        return self.write(
            "biased",
            [helper.make_node("Add", ["X", "b"], ["Y"])],
            {"X": (TensorProto.FLOAT, ["rows", 4]), "b": (TensorProto.FLOAT, [4])},
            {"Y": (TensorProto.FLOAT, ["rows", 4])},
        )

    def compress(self, rows, kept):
        """Y = the rows of X [rows, 1] where KEEP [rows] is true, an output of [kept, 1]."""
        return self.write(
            "compress",
            [helper.make_node("Compress", ["X", "KEEP"], ["Y"], axis=0)],
            {"X": (TensorProto.FLOAT, [rows, 1]), "KEEP": (TensorProto.BOOL, [rows])},
            {"Y": (TensorProto.FLOAT, [kept, 1])},
        )


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path)


@pytest.fixture
def load(tmp_path):
    """Loads a file: `load(path, max_batch_size=8, ..., **options)` -> executor, metadata."""
    loaded = []

    def load(path, *, max_batch_size=8, device="cpu", batched=None, **options):
        executor = OnnxRuntimeExecutor()
        given = {"path": str(path), **options}
        context = LoadContext("m", "1", 0, device, max_batch_size, given, tmp_path, batched or {})
        metadata = executor.load(context)
        loaded.append(executor)
        return executor, metadata

    yield load
    for executor in loaded:
        executor.close()
