"""Writes a model of the benchmark as an ONNX file: `python to_onnx.py resnet FILE [--tiny]`."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from models import Kind, encoder, kinds, resnet

from batcher.executor import DTYPES


def write(kind: Kind, path: str) -> None:
    """Write it in FP32: ONNX Runtime has no bfloat16 in its Python interface."""
    model = {"resnet": resnet, "encoder": encoder}[kind.name](**kind.args, dtype="fp32").eval()
    examples = tuple(
        torch.from_numpy(np.ones((2, *shape), DTYPES[datatype]))
        for _, datatype, shape in kind.inputs
    )
    names = [name for name, _, _ in kind.inputs]
    with warnings.catch_warnings():
        # This exporter needs no other package; the newer one does.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            examples,
            path,
            input_names=names,
            output_names=[kind.output[0]],
            dynamic_axes={name: {0: "rows"} for name in (*names, kind.output[0])},
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    wanted = {kind.name: kind for kind in kinds(tiny="--tiny" in sys.argv)}
    write(wanted[sys.argv[1]], sys.argv[2])
