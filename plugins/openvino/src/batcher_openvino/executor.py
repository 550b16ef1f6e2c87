"""Executes batches with OpenVINO."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import openvino as ov

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
from batcher_openvino.compiling import (
    check_precision,
    compile_model,
    properties_of,
    read_model,
    reshaped,
)
from batcher_openvino.devices import openvino_device
from batcher_openvino.options import OpenVinoOptions
from batcher_openvino.requests import Requests, Running
from batcher_openvino.shapes import MOST_SHAPES, Shapes, shapes_in_use, sizes_in_use
from batcher_openvino.signature import Signature, read_signature

_ALIGNMENT: Final = 64
"""Bytes: where the vector instructions of CPUs like arrays to begin."""


class OpenVinoExecutor:
    """Executes a model of OpenVINO's format or of ONNX, whose inputs and outputs are read from its file.

    Where two batches at once help (another device than a CPU, or several streams), it has `submit` and
    `collect` besides: one batch is copied while another computes.
    """

    capabilities = Capabilities(dynamic_axes=True)
    options = OpenVinoOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Read and compile the file. Raises `ModelLoadError`, which names the file or option and the reason."""
        options = read_options(context, OpenVinoOptions)
        label = f"model {context.model!r}"
        core = ov.Core()
        device = openvino_device(context.device, core.available_devices, label)
        model = read_model(core, options.path, label)
        self._signature: Signature = read_signature(model, f"{label} ({options.path})", context)
        self._requests: Requests | None = None
        self._by_shape: dict[Shapes, Requests] = {}
        properties = properties_of(options, label)
        sizes = _sizes(context, options, self._signature)

        def compiled_for(shapes: Shapes | None) -> Any:
            made = model if shapes is None else reshaped(model, shapes, label)
            return compile_model(core, made, device, properties, label)

        if options.static_shapes:
            self._compile = compiled_for
            for shapes in shapes_in_use(context, self._signature.inputs, sizes, label):
                compiled = self._add(shapes)
        else:
            compiled = compiled_for(None)
            self._requests = Requests(compiled, self._signature)
        precision = check_precision(compiled, options, device, label)
        devices = [str(each) for each in _property(compiled, "EXECUTION_DEVICES", [device])]
        if options.performance_hint == "throughput" or options.streams > 1 or devices != ["CPU"]:
            self.submit, self.collect = self._submit, self._collect
        return ModelMetadata(
            platform="openvino",
            inputs=self._signature.inputs,
            outputs=self._signature.outputs,
            properties={
                "runtime": f"openvino {ov.get_version()}",
                "device": ", ".join(devices),
                "precision": precision,
                "streams": str(_property(compiled, "NUM_STREAMS", "as the device chooses")),
                **({"static_shapes": str(len(self._by_shape))} if self._by_shape else {}),
            },
            batch_sizes=sizes,
            fixed_buckets=options.static_shapes,
        )

    def execute(self, batch: Batch) -> BatchResult:
        """Execute the batch.

        Raises `ExecutionError`, with cause `input` if OpenVINO refuses lengths, `memory` if there is none
        for a batch of this size, `device` if a GPU failed.
        """
        return self._requests_for(batch).run(batch)

    def allocate(self, _name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory that OpenVINO computes on without a copy."""
        size = prod(shape) * dtype.itemsize
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape)

    def close(self) -> None:
        """Free the compiled models."""
        self._by_shape.clear()
        self._requests = None

    def _submit(self, batch: Batch) -> Running:
        return self._requests_for(batch).start(batch)

    def _collect(self, running: Running) -> BatchResult:
        return running.requests.finish(running)

    def _requests_for(self, batch: Batch) -> Requests:
        if self._requests is not None:
            return self._requests
        shapes = tuple(batch.inputs[spec.name].shape for spec in self._signature.inputs)
        if shapes not in self._by_shape:
            # Buckets of several inputs that do not go together: seen in the warm-up, and seldom later.
            if len(self._by_shape) == MOST_SHAPES:
                raise ExecutionError(
                    f"option static_shapes: the model is compiled for {MOST_SHAPES} shapes already"
                )
            try:
                self._add(shapes)
            except ModelLoadError as error:
                raise ExecutionError(str(error)) from error
        return self._by_shape[shapes]

    def _add(self, shapes: Shapes) -> Any:
        compiled = self._compile(shapes)
        self._by_shape[shapes] = Requests(compiled, self._signature)
        return compiled


def _sizes(context: LoadContext, options: OpenVinoOptions, signature: Signature) -> tuple[int, ...]:
    """The only sizes of batches that the model takes; () for any."""
    if signature.fixed_rows is not None:
        return (signature.fixed_rows,)
    if not options.static_shapes or not context.max_batch_size:
        return ()
    return sizes_in_use(context)


def _property(compiled: Any, name: str, default: Any) -> Any:
    try:
        return compiled.get_property(name)
    except RuntimeError:
        return default
