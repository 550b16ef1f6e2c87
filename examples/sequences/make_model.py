"""Writes a small recurrent model: it hears frames of a recording, and says how sure it is of speech.

    python examples/sequences/make_model.py examples/sequences/detector.onnx

The model is a gated recurrent unit with weights from a fixed seed. It has no memory of its own: its state `h`
comes in and goes out with each frame. Every sum is over one row alone (a product and `ReduceSum` instead of a
matrix product), so that a row's result does not depend on the batch that it is in, to the last bit.

Needs the packages onnx and numpy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FRAME, STATE = 8, 16


def _dense(name: str, inputs: str, size: int, random: np.random.Generator) -> tuple[list, list]:
    """Nodes and weights of `name` = `inputs` times a matrix, plus a bias: [rows, size] -> [rows, STATE]."""
    weights = random.normal(0.0, size**-0.5, (1, STATE, size)).astype(np.float32)
    bias = random.normal(0.0, 0.1, STATE).astype(np.float32)
    nodes = [
        helper.make_node("Unsqueeze", [inputs, "axis"], [f"{name}.row"]),
        helper.make_node("Mul", [f"{name}.row", f"{name}.weights"], [f"{name}.products"]),
        helper.make_node("ReduceSum", [f"{name}.products", "last"], [f"{name}.sum"], keepdims=0),
        helper.make_node("Add", [f"{name}.sum", f"{name}.bias"], [name]),
    ]
    named = {f"{name}.weights": weights, f"{name}.bias": bias}
    return nodes, [numpy_helper.from_array(array, key) for key, array in named.items()]


def build_model(seed: int = 1) -> onnx.ModelProto:
    """Frame [rows, 8] and state h_in [rows, 16] -> speech [rows, 1] and h_out [rows, 16], all FP32."""
    random = np.random.default_rng(seed)
    nodes = [helper.make_node("Concat", ["frame", "h_in"], ["heard"], axis=1)]
    arrays = [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "row_sum"),
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
        numpy_helper.from_array(random.normal(0.0, 1.0, (1, STATE)).astype(np.float32), "readout"),
    ]
    for name in ("reset.in", "update.in"):
        made, weights = _dense(name, "heard", FRAME + STATE, random)
        nodes += [*made, helper.make_node("Sigmoid", [name], [name.removesuffix(".in")])]
        arrays += weights
    nodes += [
        helper.make_node("Mul", ["reset", "h_in"], ["kept"]),
        helper.make_node("Concat", ["frame", "kept"], ["heard again"], axis=1),
    ]
    made, weights = _dense("new.in", "heard again", FRAME + STATE, random)
    arrays += weights
    nodes += [
        *made,
        helper.make_node("Tanh", ["new.in"], ["new"]),
        helper.make_node("Mul", ["update", "h_in"], ["old part"]),
        helper.make_node("Sub", ["one", "update"], ["rest"]),
        helper.make_node("Mul", ["rest", "new"], ["new part"]),
        helper.make_node("Add", ["old part", "new part"], ["h_out"]),
        helper.make_node("Mul", ["h_out", "readout"], ["read"]),
        helper.make_node("ReduceSum", ["read", "row_sum"], ["logit"], keepdims=1),
        helper.make_node("Sigmoid", ["logit"], ["speech"]),
    ]

    def tensor(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])

    graph = helper.make_graph(
        nodes,
        "detector",
        [tensor("frame", FRAME), tensor("h_in", STATE)],
        [tensor("speech", 1), tensor("h_out", STATE)],
        arrays,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "detector.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build_model(), path)
    print(f"{path}: {path.stat().st_size} bytes")
