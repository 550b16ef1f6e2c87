"""Inference messages to and from arrays, for tests that call a server over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from batcher.protocol import inference
from batcher.tensors import DTYPES, Array

_NAMES = {dtype: name for name, dtype in DTYPES.items() if name not in {"BYTES", "BF16"}}


def infer_request(
    model: str, inputs: Mapping[str, Array], **fields: Any
) -> inference.ModelInferRequest:
    """A request with these inputs in raw_input_contents; datatypes follow from the arrays.

    `fields` are other fields of the message, such as `id` or `model_version`.
    """
    request = inference.ModelInferRequest(model_name=model, **fields)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_NAMES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def output_arrays(response: inference.ModelInferResponse) -> dict[str, Array]:
    """Output name -> array of a response in raw form (any datatype but BYTES)."""
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
