"""The network as an ONNX graph: a BERT encoder, mean pooling and L2 normalization.

Inputs `input_ids` and `attention_mask`, INT64 `[batch, seq]`; output `embedding`, FP32
`[batch, hidden]`, each row of length 1. Both axes are dynamic, up to the encoder's 512 positions.
Where the mask is 0 the token has no effect, so a sentence has the same embedding in any padding and
in any batch. Token types do not vary within one sentence: theirs is added to the positions here,
once.

Only operators of the standard set are used, in the forms that ONNX Runtime recognizes and fuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from weights import Shape, Weights

OPSET = 17
"""The first operator set with LayerNormalization; every ONNX Runtime of the last years has it."""
IR_VERSION = 8
"""The file format that goes with it."""

MASKED = -1e9
"""Added to the score of a masked token: its weight after the softmax is exactly 0."""


class _Graph:
    """Nodes and constants in the making; every method returns the name of what it added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: set[str] = set()

    def constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self._names:
            self._names.add(name)
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def axes(self, *values: int) -> str:
        name = "ints_" + "_".join(str(value) for value in values)
        return self.constant(name, np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.constant(f"number_{value!r}", np.array(value, dtype=np.float32))

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output


class _Encoder:
    """Adds the parts of the encoder to a graph, by the names of the checkpoint."""

    def __init__(self, graph: _Graph, weights: Weights, shape: Shape) -> None:
        self._graph = graph
        self._weights = weights
        self._shape = shape

    def dense(self, x: str, name: str, *, scale: float = 1.0) -> str:
        graph = self._graph
        weight = self._weights[f"{name}.weight"].T * np.float32(scale)
        bias = self._weights[f"{name}.bias"] * np.float32(scale)
        product = graph.add("MatMul", [x, graph.constant(f"{name}.weight", weight)])
        return graph.add("Add", [product, graph.constant(f"{name}.bias", bias)])

    def norm(self, x: str, name: str) -> str:
        graph = self._graph
        parameters = [
            graph.constant(f"{name}.{part}", self._weights[f"{name}.{part}"])
            for part in ("weight", "bias")
        ]
        epsilon = self._shape.norm_epsilon
        return graph.add("LayerNormalization", [x, *parameters], axis=-1, epsilon=epsilon)

    def embeddings(self) -> str:
        graph, weights = self._graph, self._weights
        words = graph.constant("words", weights["embeddings.word_embeddings.weight"])
        positions = graph.constant(
            "positions",
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0],
        )
        length = graph.add("Shape", ["input_ids"], start=1, end=2)
        first = graph.add("Slice", [positions, graph.axes(0), length, graph.axes(0)])
        rows = graph.add("Gather", [words, "input_ids"])
        return self.norm(graph.add("Add", [rows, first]), "embeddings.LayerNorm")

    def attention(self, x: str, name: str, mask_bias: str) -> str:
        graph, shape = self._graph, self._shape
        width = shape.hidden // shape.heads

        def heads(part: str, order: Sequence[int], scale: float = 1.0) -> str:
            rows = self.dense(x, f"{name}.self.{part}", scale=scale)
            split = graph.add("Reshape", [rows, graph.axes(0, 0, shape.heads, width)])
            return graph.add("Transpose", [split], perm=order)

        query = heads("query", (0, 2, 1, 3), 1 / math.sqrt(width))
        key = heads("key", (0, 2, 3, 1))
        value = heads("value", (0, 2, 1, 3))
        scores = graph.add("Add", [graph.add("MatMul", [query, key]), mask_bias])
        mixed = graph.add("MatMul", [graph.add("Softmax", [scores], axis=-1), value])
        together = graph.add("Transpose", [mixed], perm=(0, 2, 1, 3))
        rows = graph.add("Reshape", [together, graph.axes(0, 0, shape.hidden)])
        return self.dense(rows, f"{name}.output.dense")

    def layer(self, x: str, number: int, mask_bias: str) -> str:
        graph, name = self._graph, f"encoder.layer.{number}"
        attended = graph.add("Add", [self.attention(x, f"{name}.attention", mask_bias), x])
        x = self.norm(attended, f"{name}.attention.output.LayerNorm")
        inner = self.gelu(self.dense(x, f"{name}.intermediate.dense"))
        outer = graph.add("Add", [self.dense(inner, f"{name}.output.dense"), x])
        return self.norm(outer, f"{name}.output.LayerNorm")

    def gelu(self, x: str) -> str:
        graph = self._graph
        erf = graph.add("Erf", [graph.add("Div", [x, graph.number(math.sqrt(2))])])
        gate = graph.add("Add", [erf, graph.number(1.0)])
        return graph.add("Mul", [graph.add("Mul", [x, gate]), graph.number(0.5)])


def _mean(graph: _Graph, tokens: str, mask: str) -> str:
    """The mean of the rows of `tokens` where `mask` is 1."""
    kept = graph.add("Mul", [tokens, graph.add("Unsqueeze", [mask, graph.axes(-1)])])
    total = graph.add("ReduceSum", [kept, graph.axes(1)], keepdims=0)
    count = graph.add("ReduceSum", [mask, graph.axes(1)], keepdims=1)
    # An all-zero mask would divide by nothing; such a row comes out as zeros.
    return graph.add("Div", [total, graph.add("Max", [count, graph.number(1e-9)])])


def build(weights: Weights, shape: Shape) -> onnx.ModelProto:
    """The whole network with its weights inside, checked by `onnx.checker`."""
    graph = _Graph()
    encoder = _Encoder(graph, weights, shape)
    mask = graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    hidden = graph.add("Sub", [graph.number(1.0), mask])
    masked = graph.add("Mul", [hidden, graph.number(MASKED)])
    mask_bias = graph.add("Unsqueeze", [masked, graph.axes(1, 2)])

    x = encoder.embeddings()
    for number in range(shape.layers):
        x = encoder.layer(x, number, mask_bias)
    mean = _mean(graph, x, mask)
    graph.add("LpNormalization", [mean], "embedding", axis=-1, p=2)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
                for name in ("input_ids", "attention_mask")
            ],
            [
                helper.make_tensor_value_info(
                    "embedding", TensorProto.FLOAT, ["batch", shape.hidden]
                )
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="batcher-examples",
    )
    onnx.checker.check_model(model, full_check=True)
    return model
