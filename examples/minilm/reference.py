"""The same network in plain numpy, one sentence at a time: the expected embeddings.

Written from the definition of BERT, in float64 and without batching, padding or masks, so that it
shares nothing with the ONNX graph but the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from weights import Shape, Weights, load, shape

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Reference:
    """The encoder with its weights in float64."""

    def __init__(self, weights: Weights, shape: Shape) -> None:
        self._shape = shape
        self._weights = {
            name: array.astype(np.float64)
            for name, array in weights.items()
            if array.dtype == np.float32
        }

    def embed(self, token_ids: Sequence[int]) -> Vector:
        """The embedding `[hidden]`, of length 1, of one sentence's tokens without padding."""
        x = self._embeddings(token_ids)
        for number in range(self._shape.layers):
            x = self._layer(x, f"encoder.layer.{number}")
        mean = x.mean(axis=0)
        embedding: Vector = mean / np.linalg.norm(mean)
        return embedding

    def _embeddings(self, token_ids: Sequence[int]) -> Matrix:
        weights = self._weights
        words = weights["embeddings.word_embeddings.weight"][np.asarray(token_ids)]
        positions = weights["embeddings.position_embeddings.weight"][: len(token_ids)]
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + positions + kind, "embeddings.LayerNorm")

    def _layer(self, x: Matrix, name: str) -> Matrix:
        attended = self._attention(x, f"{name}.attention.self")
        projected = self._dense(attended, f"{name}.attention.output.dense")
        x = self._norm(x + projected, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._dense(x, f"{name}.intermediate.dense"))
        return self._norm(
            x + self._dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _attention(self, x: Matrix, name: str) -> Matrix:
        query, key, value = (
            np.split(self._dense(x, f"{name}.{part}"), self._shape.heads, axis=1)
            for part in ("query", "key", "value")
        )
        return np.concatenate(
            [
                _softmax(q @ k.T / math.sqrt(q.shape[1])) @ v
                for q, k, v in zip(query, key, value, strict=True)
            ],
            axis=1,
        )

    def _dense(self, x: Matrix, name: str) -> Matrix:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Matrix, name: str) -> Matrix:
        centered = x - x.mean(axis=1, keepdims=True)
        variance = (centered**2).mean(axis=1, keepdims=True)
        scaled = centered / np.sqrt(variance + self._shape.norm_epsilon)
        moved: Matrix = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return moved


def embed_all(sentences: Sequence[Sequence[int]]) -> Matrix:
    """The embeddings `[sentences, hidden]` of several token lists, by the published weights."""
    network = Reference(load(), shape())
    return np.stack([network.embed(token_ids) for token_ids in sentences])


def _softmax(scores: Matrix) -> Matrix:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Matrix = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _gelu(x: Matrix) -> Matrix:
    gated: Matrix = x * 0.5 * (1 + _erf(x / math.sqrt(2)))
    return gated
