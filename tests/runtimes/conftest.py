"""Two models, each for every runtime, with what they must answer; see `SameModels`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

COLUMNS, HIDDEN, CLASSES = 8, 16, 3

SOURCE = '''
"""The two models, as functions of numpy and as modules of PyTorch."""

from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np

from batcher.executors.python import Rows

WEIGHTS = dict(np.load(Path(__file__).with_name("weights.npz")))


def layers(x):
    hidden = np.maximum(x @ WEIGHTS["W1"] + WEIGHTS["b1"], 0)
    return hidden @ WEIGHTS["W2"] + WEIGHTS["b2"]


def mlp(
    X: Annotated[np.ndarray, Rows("FP32", 8)],
) -> Annotated[np.ndarray, Rows("FP32", 3, name="Y")]:
    return layers(X)


class Pooled(TypedDict):
    Y: Annotated[np.ndarray, Rows("FP32", 3)]
    EACH: Annotated[np.ndarray, Rows("FP32", "seq", 3)]


def pooled(
    X: Annotated[np.ndarray, Rows("FP32", "seq", 8)], MASK: Annotated[np.ndarray, Rows("FP32", "seq")]
) -> Pooled:
    each = layers(X) * MASK[:, :, None]
    count = np.maximum(MASK.sum(axis=1, keepdims=True), 1)  # the warm-up has zeros
    return {"Y": each.sum(axis=1) / count, "EACH": each}


def __getattr__(name):
    # PyTorch is imported where a module of it is asked for.
    import torch

    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for key, value in WEIGHTS.items():
                self.register_buffer(key, torch.from_numpy(value))

        def layers(self, x):
            return torch.relu(x @ self.W1 + self.b1) @ self.W2 + self.b2

        def forward(self, X):
            return {"Y": self.layers(X)}

    class Pooled(Mlp):
        def forward(self, X, MASK):
            each = self.layers(X) * MASK.unsqueeze(2)
            return {"Y": each.sum(1) / MASK.sum(1, keepdim=True), "EACH": each}

    found = {"MlpModule": Mlp, "PooledModule": Pooled}.get(name)
    if found is None:
        raise AttributeError(name)
    return found
'''


class SameModels:
    """The files of the models, and how each runtime loads them.

    `mlp` is Y = relu(X W1 + b1) W2 + b2, of X [rows, 8]. `pooled` has X [rows, seq, 8] and MASK [rows, seq]:
    EACH is the same of every step, times the mask, and Y the mean over the steps where the mask is 1.
    """

    runtimes = ("onnxruntime", "torch", "openvino", "python")
    names = ("mlp", "pooled")

    def __init__(self, folder: Path):
        rng = np.random.default_rng(19)
        self.weights = {
            name: rng.standard_normal(shape).astype(np.float32) / 2
            for name, shape in (
                ("W1", (COLUMNS, HIDDEN)),
                ("b1", (HIDDEN,)),
                ("W2", (HIDDEN, CLASSES)),
                ("b2", (CLASSES,)),
            )
        }
        self.folder = folder
        np.savez(folder / "weights.npz", **self.weights)
        (folder / "model.py").write_text(SOURCE, encoding="utf-8")
        self._write_onnx()
        self._write_torch()
        self._write_openvino()

    def options(self, runtime, name):
        return {
            "onnxruntime": {"path": f"{name}.onnx", "threads": {"intra_op": 1}},
            "torch": {"path": f"{name}.pt2", "threads": {"intra_op": 1}},
            "openvino": {"path": f"{name}.xml", "threads": 1},
            "python": {"target": f"model.py:{name}"},
        }[runtime]

    def section(self, runtime, name, **rest):
        """The section of the configuration for one model; `rest` are more keys of it."""
        section = {
            "executor": runtime,
            "options": self.options(runtime, name),
            "batching": {"policy": "fixed", "max_batch_size": 8, "max_queue_delay": "20ms"},
            "execute_timeout": "60s",
        }
        if name == "pooled":
            section["padding"] = [
                {"input": each, "axis": 1, "buckets": [4, 8]} for each in ("X", "MASK")
            ]
            if runtime == "openvino":  # it does not keep the names of axes
                like = {"input": "X", "axis": 1}
                section["outputs"] = [{"output": "EACH", "axis": 1, "like": like}]
        return section | rest

    def inputs(self, name, rows, rng, length=6):
        if name == "mlp":
            return {"X": rng.standard_normal((rows, COLUMNS), np.float32)}
        mask = (rng.random((rows, length)) < 0.6).astype(np.float32)
        mask[:, 0] = 1
        return {"X": rng.standard_normal((rows, length, COLUMNS), np.float32), "MASK": mask}

    def answers(self, name, inputs):
        """What each output must be, computed in 64 bits."""
        w = {key: value.astype(np.float64) for key, value in self.weights.items()}
        each = np.maximum(inputs["X"] @ w["W1"] + w["b1"], 0) @ w["W2"] + w["b2"]
        if name == "mlp":
            return {"Y": each}
        mask = inputs["MASK"].astype(np.float64)
        each *= mask[:, :, None]
        return {"Y": each.sum(axis=1) / mask.sum(axis=1, keepdims=True), "EACH": each}

    def _write_onnx(self):
        from onnx import TensorProto, helper, numpy_helper

        def node(kind, inputs, output, **attributes):
            return helper.make_node(kind, inputs, [output], **attributes)

        def write(name, nodes, inputs, outputs):
            def infos(shapes):
                return [
                    helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
                    for n, shape in shapes.items()
                ]

            weights = {**self.weights, "one": np.array([1]), "two": np.array([2])}
            tensors = [numpy_helper.from_array(array, key) for key, array in weights.items()]
            graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), tensors)
            opset = [helper.make_opsetid("", 17)]
            model = helper.make_model(graph, opset_imports=opset, ir_version=8)
            (self.folder / f"{name}.onnx").write_bytes(model.SerializeToString())

        def layers(output):
            return [
                node("MatMul", ["X", "W1"], "h1"),
                node("Add", ["h1", "b1"], "h2"),
                node("Relu", ["h2"], "h3"),
                node("MatMul", ["h3", "W2"], "h4"),
                node("Add", ["h4", "b2"], output),
            ]

        write("mlp", layers("Y"), {"X": ["rows", COLUMNS]}, {"Y": ["rows", CLASSES]})
        write(
            "pooled",
            [
                *layers("all"),
                node("Unsqueeze", ["MASK", "two"], "mask"),
                node("Mul", ["all", "mask"], "EACH"),
                node("ReduceSum", ["EACH", "one"], "sum", keepdims=0),
                node("ReduceSum", ["MASK", "one"], "count", keepdims=1),
                node("Div", ["sum", "count"], "Y"),
            ],
            {"X": ["rows", "seq", COLUMNS], "MASK": ["rows", "seq"]},
            {"Y": ["rows", CLASSES], "EACH": ["rows", "seq", CLASSES]},
        )

    def _write_torch(self):
        import torch

        spec = importlib.util.spec_from_file_location("model", self.folder / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows, seq = torch.export.Dim("rows"), torch.export.Dim("seq")
        for name, made, args, axes in (
            ("mlp", module.MlpModule(), (torch.zeros(3, COLUMNS),), ({0: rows},)),
            (
                "pooled",
                module.PooledModule(),
                (torch.zeros(3, 5, COLUMNS), torch.ones(3, 5)),
                ({0: rows, 1: seq}, {0: rows, 1: seq}),
            ),
        ):
            program = torch.export.export(made.eval(), args, dynamic_shapes=axes)
            torch.export.save(program, self.folder / f"{name}.pt2")

    def _write_openvino(self):
        import openvino

        for name in self.names:
            model = openvino.Core().read_model(self.folder / f"{name}.onnx")
            openvino.save_model(model, self.folder / f"{name}.xml", compress_to_fp16=False)


@pytest.fixture(scope="session")
def same_models(tmp_path_factory):
    """The models, written once."""
    return SameModels(tmp_path_factory.mktemp("models"))
