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
_NO_MEMORY: Final = ("Failed to allocate", "AllocateRaw", "bad_alloc", "out of memory")
_BY_AN_OPERATOR: Final = "status code returned while running"


class OnnxRuntimeExecutor:
    """Runs a model file. Inputs, outputs and variable axes are read from the file.

    A file that fixes its first axis to n takes up to n rows: shorter batches are filled up with
    copies of their last row, and the answers to those are dropped. Inputs that all rows share are
    handed over as they are, and so is everything where the model has no batch axis.
    """

    capabilities = Capabilities(dynamic_axes=True)
    options = OnnxRuntimeOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Open a session on the file. Raises `ModelLoadError` with the reason."""
        options = read_options(context, OnnxRuntimeOptions)
        opened = open_session(context, options)
        who = f"model {context.model!r} ({options.path})"
        self._signature: Signature = read_signature(opened.session, who, context)
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
        """Run the batch. A text that is not UTF-8 fails its own row, not the batch.

        Raises `ExecutionError`: cause `input` when ONNX Runtime blames the values, `device` when
        the provider failed.
        """
        feeds = dict(batch.inputs)
        row_errors: dict[int, str] = {}
        for name in self._strings_in & feeds.keys():
            feeds[name] = _decoded(name, feeds[name], row_errors if name in self._rows else None)
        fixed = self._signature.fixed_rows
        if fixed is not None and fixed != batch.rows:
            for name in self._rows & feeds.keys():
                feeds[name] = _filled_up(feeds[name], fixed)
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
    if isinstance(error, native.EPFail) or any(sign in text for sign in _DEVICE_TROUBLE):
        return "device"
    # An operator that refuses what it was given says so in either of two ways, by no rule: an index
    # out of range is InvalidArgument to Gather, and Fail to GatherElements.
    if _BY_AN_OPERATOR in text and not any(sign in text for sign in _NO_MEMORY):
        return "input"
    return "unknown"


def _decoded(name: str, array: Array, row_errors: dict[int, str] | None) -> Array:
    """Text for bytes. Rows that are no UTF-8 are noted, and run as empty text.

    Where there are no rows to blame, it raises `ExecutionError`.
    """
    texts = np.empty(array.shape, np.object_)
    width = max(1, array.size // len(array)) if row_errors is not None else 1
    flat = texts.reshape(-1)
    for place, value in enumerate(array.reshape(-1)):
        try:
            flat[place] = value.decode()
        except UnicodeDecodeError:
            if row_errors is None:
                raise ExecutionError(f"input {name!r} must be UTF-8", cause="input") from None
            flat[place] = ""
            row_errors[place // width] = f"input {name!r} must be UTF-8"
    return texts


def _encoded(array: Array) -> Array:
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [value.encode() for value in array.reshape(-1)]
    return encoded


def _filled_up(array: Array, rows: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _without_filling(name: str, array: Array, fixed: int, rows: int) -> Array:
    """The answers to the rows of the batch, if there is one for each row that was executed.

    An output that has dropped rows has no telling which are left.
    """
    if array.shape[:1] != (fixed,):
        raise ExecutionError(
            f"output {name!r} has shape {list(array.shape)} for the {fixed} rows that the model "
            "file is fixed to, so its rows are not those of the batch"
        )
    return array[:rows]
