"""Small ONNX models, made on the spot, and OpenVINO's own files of them."""

import numpy as np
import pytest

from batcher.executor import LoadContext


class Models:
    """Writes model files into a folder; every method returns the file's path."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, name, nodes, inputs, outputs, weights=None):
        """`inputs` and `outputs` map names to (element type, shape)."""
        from onnx import helper, numpy_helper

        def infos(specs):
            return [helper.make_tensor_value_info(n, t, shape) for n, (t, shape) in specs.items()]

        constants = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
        graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), constants)
        opset = [helper.make_opsetid("", 17)]
        path = self.folder / f"{name}.onnx"
        path.write_bytes(
            helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
        )
        return path

    def matmul(self, *, rows="rows"):
        """Y = X W, with X [rows, 3] and W = 0..5 as [3, 2]."""
        from onnx import TensorProto, helper

        return self.write(
            "matmul",
            [helper.make_node("MatMul", ["X", "W"], ["Y"])],
            {"X": (TensorProto.FLOAT, [rows, 3])},
            {"Y": (TensorProto.FLOAT, [rows, 2])},
            {"W": np.arange(6, dtype=np.float32).reshape(3, 2)},
        )

    def identity(self, kind, *, shape=("rows", 2)):
        """Y = X, of any element type."""
        from onnx import helper

        return self.write(
            "identity",
            [helper.make_node("Identity", ["X"], ["Y"])],
            {"X": (kind, list(shape))},
            {"Y": (kind, list(shape))},
        )

    def masked(self):
        """SUM [rows] = the sum of X [rows, seq] where MASK is 1."""
        from onnx import TensorProto, helper

        return self.write(
            "masked",
            [
                helper.make_node("Mul", ["X", "MASK"], ["M"]),
                helper.make_node("ReduceSum", ["M", "AXES"], ["SUM"], keepdims=0),
            ],
            {
                "X": (TensorProto.FLOAT, ["rows", "seq"]),
                "MASK": (TensorProto.FLOAT, ["rows", "seq"]),
            },
            {"SUM": (TensorProto.FLOAT, ["rows"])},
            {"AXES": np.array([1])},
        )

    def biased(self):
        """Y = X + b, with X [rows, 4] and b [4]; SIZE = |X|."""
        from onnx import TensorProto, helper

        return self.write(
            "biased",
            [helper.make_node("Add", ["X", "b"], ["Y"]), helper.make_node("Abs", ["X"], ["SIZE"])],
            {"X": (TensorProto.FLOAT, ["rows", 4]), "b": (TensorProto.FLOAT, [4])},
            {
                "Y": (TensorProto.FLOAT, ["rows", 4]),
                "SIZE": (TensorProto.FLOAT, ["rows", 4]),
            },
        )

    def converted(self, path):
        """The same model as a file of OpenVINO's own, with its weights beside it."""
        import openvino

        converted = path.with_suffix(".xml")
        openvino.save_model(openvino.Core().read_model(path), converted, compress_to_fp16=False)
        return converted


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path)


@pytest.fixture
def load(tmp_path):
    """Loads a file: `load(path, max_batch_size=8, ..., **options)` -> executor, metadata."""
    from batcher_openvino import OpenVinoExecutor

    loaded = []

    def load(
        path, *, max_batch_size=8, device="cpu", batched=None, sizes=(), buckets=None, **options
    ):
        executor = OpenVinoExecutor()
        given = {"path": str(path), **options}
        context = LoadContext(
            "m", "1", 0, device, max_batch_size, given, tmp_path, batched or {}, 0, sizes, buckets or {}
        )  # fmt: skip
        metadata = executor.load(context)
        loaded.append(executor)
        return executor, metadata

    yield load
    for executor in loaded:
        executor.close()
