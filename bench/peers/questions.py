"""The requests of the load, each with an `X` of its own, and what a right answer to each holds.

Answers are compared as bytes: a protobuf answer holds `Y` as sixteen little-endian floats, whether
raw or as a packed field, and a JSON answer holds them as text. Numbers are whole, so that the text
of each is the same in every library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batcher.protocol import inference

COLUMNS = 16
MARK = np.arange(COLUMNS, dtype="<f4") + np.float32(0.25)
"""The `X` of a template: no `X` of a request has a fraction."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one request sends in place of the template's `X`, and what its answer must hold."""

    sent: bytes
    expected: bytes


def rows(count: int, seed: int) -> NDArray[np.float32]:
    """A row for each request, [count, 16], whole numbers below 100,000."""
    random = np.random.default_rng(seed)
    return random.integers(0, 100_000, (count, COLUMNS)).astype("<f4")


def binary(count: int, seed: int) -> list[Question]:
    """For protobuf messages."""
    return [Question(x.tobytes(), (2 * x).tobytes()) for x in rows(count, seed)]


def text(count: int, seed: int) -> list[Question]:
    """For JSON."""
    x = rows(count, seed).astype(float)
    return [
        Question(_numbers(each), _numbers(twice))
        for each, twice in zip(x.tolist(), (2 * x).tolist(), strict=True)
    ]


def _numbers(values: list[float]) -> bytes:
    return ",".join(map(repr, values)).encode()


@dataclass(frozen=True, slots=True)
class Grpc:
    """A unary method, and a message of it that holds `MARK` as bytes once."""

    method: str
    message: bytes
    questions: Callable[[int, int], list[Question]] = binary


@dataclass(frozen=True, slots=True)
class Http:
    """A path that takes JSON; `body` holds `%s` where the sixteen numbers belong."""

    path: str
    body: bytes
    questions: Callable[[int, int], list[Question]] = text


Protocol = Grpc | Http


def open_inference(model: str) -> Grpc:
    """`ModelInfer` of the Open Inference Protocol, `X` raw."""
    request = inference.ModelInferRequest(model_name=model, raw_input_contents=[MARK.tobytes()])
    request.inputs.add(name="X", datatype="FP32", shape=[1, COLUMNS])
    request.outputs.add(name="Y")
    return Grpc("/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())


def torchserve(model: str) -> Grpc:
    """`Predictions` of TorchServe: field 1 is the model's name, field 3 a map to bytes."""
    entry = _field(1, b"x") + _field(2, MARK.tobytes())
    return Grpc(
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
        _field(1, model.encode()) + _field(3, entry),
    )


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of protobuf, shorter than 128 bytes."""
    if len(value) > 127:
        raise ValueError("longer than one byte can say")
    return bytes([number << 3 | 2, len(value)]) + value
