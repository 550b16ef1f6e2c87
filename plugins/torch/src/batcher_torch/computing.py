"""Runs a model once, the same on every device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

import torch

from batcher.executor import TensorSpec
from batcher_torch.datatypes import TORCH_DTYPES
from batcher_torch.loading import LoadedModel
from batcher_torch.options import TorchOptions
from batcher_torch.shapes import Shapes

PRECISIONS: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Option `precision` -> the dtype of autocast."""

Tensors = Mapping[str, torch.Tensor]


class Computing:
    """Calls a model with tensors by input, in inference mode and in the precision of the options.

    A compiled model is called for the shapes that it was compiled for, and the model itself for all
    others: compiling takes seconds, in which requests would wait.
    """

    def __init__(self, model: LoadedModel, options: TorchOptions, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._precision = PRECISIONS[options.precision] if options.precision else None
        self._channels_last = options.channels_last
        self._compiled: Callable[..., Any] | None = None
        self._compiled_for: set[tuple[tuple[int, ...], ...]] = set()
        if options.compile:
            self._compiled = torch.compile(model.run, dynamic=False, mode=options.compile_mode)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the model."""
        return self._model.signature.inputs

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def zeros(self, shapes: Shapes) -> dict[str, torch.Tensor]:
        """Inputs of these shapes on the device."""
        return {
            spec.name: torch.zeros(
                shapes[spec.name], dtype=TORCH_DTYPES[spec.datatype], device=self._device
            )
            for spec in self.inputs
        }

    def compile_for(self, shapes: Shapes) -> None:
        """Compile the model for inputs of these shapes, if it is to be compiled."""
        if self._compiled is not None:
            tensors = self.zeros(shapes)
            self._compiled_for.add(_key(tensors))
            self(tensors)

    def __call__(self, tensors: Tensors) -> Any:
        """What the model returns. Raises whatever it raises."""
        run = self._model.run
        if self._compiled is not None and _key(tensors) in self._compiled_for:
            run = self._compiled
        if self._channels_last:
            tensors = {name: _channels_last(tensor) for name, tensor in tensors.items()}
        args, kwargs = self._model.arrange(tensors)
        with torch.inference_mode(), self._autocast():
            return run(*args, **kwargs)

    def _autocast(self) -> Any:
        if self._precision is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._precision, cache_enabled=False)


def _key(tensors: Tensors) -> tuple[tuple[int, ...], ...]:
    return tuple([tuple(tensor.shape) for tensor in tensors.values()])


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 4 or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
