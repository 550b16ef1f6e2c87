"""Executes batches with an ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from batcher.errors import ModelLoadError
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
from batcher_onnxruntime.binding import BoundSession, Copied
from batcher_onnxruntime.devices import TENSORRT, graph_problem
from batcher_onnxruntime.messages import is_out_of_memory, one_line
from batcher_onnxruntime.options import OnnxRuntimeOptions
from batcher_onnxruntime.pinned import cuda_runtime, pinned
from batcher_onnxruntime.session import QUIET, OpenedSession, open_session
from batcher_onnxruntime.signature import Signature, read_signature

_DEVICE_ERRORS: Final = ("CUDA failure", "CUDA error", "CUBLAS failure", "CUDNN failure")
_OPERATOR_ERROR: Final = "status code returned while running"


class OnnxRuntimeExecutor:
    """Executes an ONNX model, whose inputs, outputs and variable axes are read from its file.

    If the file fixes axis 0 to n, that is the only batch size. Inputs without a batch axis are passed on
    unchanged. On a GPU batches are gathered into page-locked memory (`allocate`), and one is copied in
    while another computes (`submit`, `collect`).
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
        self._bound = self._bind(opened, options, context, f"model {context.model!r}")
        fixed = self._signature.fixed_rows
        return ModelMetadata(
            platform="onnxruntime_onnx",
            inputs=self._signature.inputs,
            outputs=self._signature.outputs,
            properties=opened.properties,
            # A file whose rows are more than the configuration wants is filled up here.
            batch_sizes=(fixed,) if fixed is not None and fixed <= context.max_batch_size else (),
            # Profiles of TensorRT and CUDA graphs are made for the buckets in use.
            fixed_buckets=options.cuda_graphs or TENSORRT in opened.session.get_providers(),
            gpu=opened.device_id if opened.device == "cuda" else None,
        )

    def _bind(
        self, opened: OpenedSession, options: OnnxRuntimeOptions, context: LoadContext, label: str
    ) -> BoundSession | None:
        """How batches are bound, None for plain runs. Raises `ModelLoadError` where that is not possible."""
        signature = self._signature
        datatypes = {spec.datatype for spec in (*signature.inputs, *signature.outputs)}
        wanted = options.io_binding
        if wanted is None:
            wanted = opened.device != "cpu" and "BYTES" not in datatypes
        if wanted and "BYTES" in datatypes:
            raise ModelLoadError(
                f"{label}: option io_binding: got true for a model with inputs or outputs of text, which"
                " ONNX Runtime cannot bind"
            )
        if "BF16" in datatypes and "BYTES" in datatypes:
            raise ModelLoadError(
                f"{label}: bfloat16 needs IO binding, which text beside it rules out: add a Cast to the model"
            )
        if options.cuda_graphs:
            problem = graph_problem(
                options, context, signature.inputs, signature.outputs, signature.fixed_rows
            )
            if problem:
                raise ModelLoadError(f"{label}: {problem}")
        if not (wanted or "BF16" in datatypes):
            return None
        on_gpu = opened.device != "cpu"
        if on_gpu:
            runtime = cuda_runtime()

            def allocate(_name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
                return pinned(shape, dtype, runtime)

            # The worker looks for these after the load.
            self.submit, self.collect, self.allocate = self._submit, self._collect, allocate
        opened.properties["io_binding"] = opened.device
        return BoundSession(
            opened.session,
            signature.inputs,
            signature.outputs,
            device=opened.device,
            device_id=opened.device_id,
            graphs=options.cuda_graphs,
            log_level=QUIET,
        )

    def execute(self, batch: Batch) -> BatchResult:
        """Execute the batch. A row with text that is not UTF-8 fails alone (`row_errors`).

        Raises `ExecutionError`, with cause `input` if ONNX Runtime refuses the values, `memory` if there is
        none for a batch of this size, `device` if an execution provider failed.
        """
        if self._bound is not None:
            return self._collect(self._submit(batch))
        feeds = dict(batch.inputs)
        row_errors: dict[int, str] = {}
        for name in self._strings_in & feeds.keys():
            feeds[name] = _decoded(name, feeds[name], row_errors if name in self._rows else None)
        feeds, names = self._filled(feeds, batch), self._names(batch)
        try:
            answers = self._session.run(names, feeds, self._run_options)
        except Exception as error:
            raise self._failed(error) from error
        outputs = {name: np.asarray(answer) for name, answer in zip(names, answers, strict=True)}
        outputs = self._cut(outputs, batch.rows)
        for name in self._strings_out & outputs.keys():
            outputs[name] = _encoded(outputs[name])
        return BatchResult(outputs, row_errors)

    def _submit(self, batch: Batch) -> tuple[Copied, int, Sequence[str]]:
        """Copy the inputs to the device."""
        assert self._bound is not None  # noqa: S101 - else `execute` runs plainly
        names = self._names(batch)
        try:
            copied = self._bound.copy_in(self._filled(dict(batch.inputs), batch), names)
        except Exception as error:
            raise self._failed(error) from error
        return copied, batch.rows, names

    def _collect(self, handle: tuple[Copied, int, Sequence[str]]) -> BatchResult:
        """Run a batch whose inputs are on the device, and copy its outputs out."""
        assert self._bound is not None  # noqa: S101 - see above
        copied, rows, names = handle
        try:
            found = self._bound.run(copied)
        except Exception as error:
            raise self._failed(error) from error
        return BatchResult(self._cut({name: found[name] for name in names}, rows))

    def _failed(self, error: Exception) -> ExecutionError:
        """What a batch that failed is said to have failed of."""
        cause = _cause(error)
        if cause == "memory" and self._bound is not None:
            self._bound.free_unused()
        return ExecutionError(one_line(error), cause=cause)

    def _names(self, batch: Batch) -> list[str]:
        return [n for n in self._outputs if batch.outputs is None or n in batch.outputs]

    def _filled(self, feeds: dict[str, Array], batch: Batch) -> dict[str, Array]:
        fixed = self._signature.fixed_rows
        if fixed is not None and fixed != batch.rows:
            for name in self._rows & feeds.keys():
                feeds[name] = _with_filling(feeds[name], fixed)
        return feeds

    def _cut(self, outputs: dict[str, Array], rows: int) -> dict[str, Array]:
        fixed = self._signature.fixed_rows
        if fixed is None:
            return outputs
        return {n: _without_filling(n, array, fixed, rows) for n, array in outputs.items()}

    def close(self) -> None:
        """Free the session, its threads, and memory of the device."""
        if self._bound is not None:
            self._bound.clear()
        self._bound = None
        del self._session


def _strings(specs: Iterable[Any]) -> frozenset[str]:
    return frozenset(spec.name for spec in specs if spec.datatype == "BYTES")


def _cause(error: Exception) -> str:
    text = str(error)
    # First of all: operators and providers report it in their own ways.
    if is_out_of_memory(error):
        return "memory"
    if isinstance(error, native.InvalidArgument):
        return "input"
    if isinstance(error, native.EPFail) or any(sign in text for sign in _DEVICE_ERRORS):
        return "device"
    # Operators report wrong values in either of two ways: an index out of range is InvalidArgument
    # in Gather, and Fail in GatherElements.
    return "input" if _OPERATOR_ERROR in text else "unknown"


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
