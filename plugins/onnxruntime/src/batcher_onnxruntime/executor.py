"""The executor: one ONNX Runtime session, and batches through it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    read_options,
)
from batcher_onnxruntime.messages import one_line
from batcher_onnxruntime.options import OnnxRuntimeOptions
from batcher_onnxruntime.session import QUIET, open_session
from batcher_onnxruntime.signature import Signature, read_signature

_DEVICE_TROUBLE: Final = ("CUDA failure", "CUDA error", "CUBLAS failure", "CUDNN failure")


class OnnxRuntimeExecutor:
    """Runs a model file. Inputs, outputs and variable axes are read from the file.

    A file that fixes its first axis to n takes up to n rows: shorter batches are filled up with
    copies of their last row, and the answers to those are dropped.
    """

    capabilities = Capabilities(dynamic_axes=True)
    options = OnnxRuntimeOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Open a session on the file. Raises `ModelLoadError` with the reason."""
        options = read_options(context, OnnxRuntimeOptions)
        opened = open_session(context, options)
        who = f"model {context.model!r} ({options.path})"
        self._signature: Signature = read_signature(opened.session, who, context.max_batch_size)
        self._outputs = [spec.name for spec in self._signature.outputs]
        self._strings_in = _strings(self._signature.inputs)
        self._strings_out = _strings(self._signature.outputs)
        self._session: Any = opened.session
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = QUIET
        return ModelMetadata(
            platform="onnxruntime_onnx",
            inputs=self._signature.inputs,
            outputs=self._signature.outputs,
            properties=opened.properties,
        )

    def execute(self, batch: Batch) -> BatchResult:
        """Run the batch. A text that is not UTF-8 fails its own row, not the batch.

        Raises `ExecutionError`: cause `input` when ONNX Runtime blames the values, `device` when
        the provider failed.
        """
        feeds = dict(batch.inputs)
        row_errors: dict[int, str] = {}
        for name in self._strings_in & feeds.keys():
            feeds[name] = _decoded(name, feeds[name], row_errors)
        fixed = self._signature.fixed_rows
        if fixed is not None and fixed != batch.rows:
            feeds = {name: _filled_up(array, fixed) for name, array in feeds.items()}
        names = [n for n in self._outputs if batch.outputs is None or n in batch.outputs]
        try:
            answers = self._session.run(names, feeds, self._run_options)
        except Exception as error:
            raise ExecutionError(one_line(error), cause=_cause(error)) from error
        outputs = dict(zip(names, answers, strict=True))
        if fixed is not None and fixed != batch.rows:
            outputs = {name: array[: batch.rows] for name, array in outputs.items()}
        for name in self._strings_out & outputs.keys():
            outputs[name] = _encoded(outputs[name])
        return BatchResult(outputs, row_errors)

    def close(self) -> None:
        """Free the session and its threads."""
        del self._session


def _strings(specs: Iterable[Any]) -> frozenset[str]:
    return frozenset(spec.name for spec in specs if spec.datatype == "BYTES")


def _cause(error: Exception) -> str:
    if isinstance(error, native.InvalidArgument):
        return "input"
    text = str(error)
    if isinstance(error, native.EPFail) or any(sign in text for sign in _DEVICE_TROUBLE):
        return "device"
    return "unknown"


def _decoded(name: str, array: Array, row_errors: dict[int, str]) -> Array:
    """Text for bytes. Rows that are no UTF-8 are noted, and run as empty text."""
    texts = np.empty(array.shape, np.object_)
    width = max(1, array.size // len(array))
    flat = texts.reshape(-1)
    for place, value in enumerate(array.reshape(-1)):
        try:
            flat[place] = value.decode()
        except UnicodeDecodeError:
            flat[place] = ""
            row_errors[place // width] = f"input {name!r} must be UTF-8"
    return texts


def _encoded(array: Array) -> Array:
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [value.encode() for value in array.reshape(-1)]
    return encoded


def _filled_up(array: Array, rows: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
