"""Executes batches with an ONNX Runtime session."""

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

_DEVICE_ERRORS: Final = ("CUDA failure", "CUDA error", "CUBLAS failure", "CUDNN failure")
_MEMORY_ERRORS: Final = ("Failed to allocate", "AllocateRaw", "bad_alloc", "out of memory")
_OPERATOR_ERROR: Final = "status code returned while running"


class OnnxRuntimeExecutor:
    """Executes an ONNX model, whose inputs, outputs and variable axes are read from its file.

    If the file fixes axis 0 to n, batches have up to n rows: smaller ones are filled with copies of
    their last row, whose outputs are dropped. Inputs without a batch axis are passed on unchanged.
    """

    capabilities = Capabilities(dynamic_axes=True)
    options = OnnxRuntimeOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model file. Raises `ModelLoadError`, which names the file or option and the reason."""
        options = read_options(context, OnnxRuntimeOptions)
        opened = open_session(context, options)
        label = f"model {context.model!r} ({options.path})"
        self._signature: Signature = read_signature(opened.session, label, context)
        self._outputs = [spec.name for spec in self._signature.outputs]
        self._rows = frozenset(spec.name for spec in self._signature.inputs if spec.batched)
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
        """Execute the batch. A row with text that is not UTF-8 fails alone (`row_errors`).

        Raises `ExecutionError`, with cause `input` if ONNX Runtime refuses the values, `device` if
        an execution provider failed.
        """
        feeds = dict(batch.inputs)
        row_errors: dict[int, str] = {}
        for name in self._strings_in & feeds.keys():
            feeds[name] = _decoded(name, feeds[name], row_errors if name in self._rows else None)
        fixed = self._signature.fixed_rows
        if fixed is not None and fixed != batch.rows:
            for name in self._rows & feeds.keys():
                feeds[name] = _with_filling(feeds[name], fixed)
        names = [n for n in self._outputs if batch.outputs is None or n in batch.outputs]
        try:
            answers = self._session.run(names, feeds, self._run_options)
        except Exception as error:
            raise ExecutionError(one_line(error), cause=_cause(error)) from error
        outputs = {name: np.asarray(answer) for name, answer in zip(names, answers, strict=True)}
        if fixed is not None:
            outputs = {
                name: _without_filling(name, array, fixed, batch.rows)
                for name, array in outputs.items()
            }
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
    if isinstance(error, native.EPFail) or any(sign in text for sign in _DEVICE_ERRORS):
        return "device"
    # Operators report wrong values in either of two ways: an index out of range is InvalidArgument
    # in Gather, and Fail in GatherElements.
    if _OPERATOR_ERROR in text and not any(sign in text for sign in _MEMORY_ERRORS):
        return "input"
    return "unknown"


def _decoded(name: str, array: Array, row_errors: dict[int, str] | None) -> Array:
    """The elements as text. Rows that are not UTF-8 are added to `row_errors` and become empty text.

    Raises `ExecutionError` instead if `row_errors` is None (an input without a batch axis).
    """
    texts = np.empty(array.shape, np.object_)
    width = max(1, array.size // len(array)) if row_errors is not None else 1
    flat = texts.reshape(-1)
    for place, value in enumerate(array.reshape(-1)):
        try:
            flat[place] = value.decode()
        except UnicodeDecodeError:
            if row_errors is None:
                raise ExecutionError(f"input {name!r} is not UTF-8", cause="input") from None
            flat[place] = ""
            row_errors[place // width] = f"input {name!r} is not UTF-8"
    return texts


def _encoded(array: Array) -> Array:
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [value.encode() for value in array.reshape(-1)]
    return encoded


def _with_filling(array: Array, rows: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _without_filling(name: str, array: Array, fixed: int, rows: int) -> Array:
    """The outputs of the batch's own rows. Raises `ExecutionError` if not every row has one."""
    if array.shape[:1] != (fixed,):
        raise ExecutionError(
            f"output {name!r} has shape {list(array.shape)}; its axis 0 should be {fixed}, which "
            "the model file fixes the batch axis to"
        )
    return array[:rows]
