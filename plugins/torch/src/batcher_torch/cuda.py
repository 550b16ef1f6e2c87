"""Runs batches on a GPU: copies in, computes and copies out on streams, and waits for nothing before `collect`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from batcher.executor import Array, Batch, BatchResult
from batcher_torch.computing import Computing, Tensors
from batcher_torch.datatypes import TORCH_DTYPES, as_array, as_tensor
from batcher_torch.gpu import Gpu
from batcher_torch.messages import one_line
from batcher_torch.results import Results
from batcher_torch.shapes import Shapes

_log: Final = logging.getLogger(__name__)

_SETTLING_RUNS: Final = 3
"""Runs before a graph is recorded, in which libraries choose kernels and allocate: what PyTorch's
own `make_graphed_callables` does."""


@dataclass(frozen=True, slots=True)
class Running:
    """A batch on its way.

    It holds all tensors that the device may still read or write: their memory must not be given to
    another batch before `done`.
    """

    done: Any
    outputs: dict[str, torch.Tensor]
    held: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recorded model with the memory of its inputs and outputs."""

    graph: Any
    inputs: dict[str, torch.Tensor]
    value: Any


class CudaRunner:
    """Runs batches on one GPU. `submit` and `collect` may be called on two threads."""

    def __init__(self, computing: Computing, results: Results, gpu: Gpu, label: str) -> None:
        self._computing = computing
        self._results = results
        self._gpu = gpu
        self._label = label
        self._dtypes = {spec.name: TORCH_DTYPES[spec.datatype] for spec in computing.inputs}
        self._graphs: dict[tuple[tuple[int, ...], ...], _Graph] = {}

    @property
    def graphs(self) -> int:
        """How many graphs are recorded."""
        return len(self._graphs)

    def compile_for(self, shapes: Shapes) -> None:
        """Compile the model for batches of these shapes, where it computes later."""
        with self._gpu.on(self._gpu.compute):
            self._computing.compile_for(shapes)
        self._gpu.finish()

    def record(self, shapes: Shapes) -> None:
        """Record a graph for batches of these shapes."""
        gpu = self._gpu
        with gpu.on(gpu.compute):
            inputs = self._computing.zeros(shapes)
            for _ in range(_SETTLING_RUNS):
                self._computing(inputs)
        gpu.finish()
        graph, value = gpu.record(lambda: self._computing(inputs))
        self._graphs[_key(inputs)] = _Graph(graph, inputs, value)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in page-locked memory; in ordinary memory where there is no more of it."""
        try:
            return as_array(self._gpu.pinned(shape, torch.from_numpy(np.empty(0, dtype)).dtype))
        except RuntimeError as error:
            what = one_line(error)
            _log.warning("%s: no pinned memory for inputs of %s: %s", self._label, shape, what)
            return np.empty(shape, dtype)

    def submit(self, batch: Batch) -> Running:
        """Start copying in, the computation and copying out. Raises what fails at once."""
        try:
            return self._start(batch)
        except BaseException:
            # What has begun may still use memory that is freed now.
            self._gpu.finish()
            raise

    def collect(self, running: Running) -> BatchResult:
        """Wait for a batch. Raises what failed on the device."""
        self._gpu.wait(running.done)
        return BatchResult({name: as_array(each) for name, each in running.outputs.items()})

    def free_unused(self) -> None:
        """Give memory that PyTorch keeps for later back to the device."""
        self._gpu.free_unused()

    def close(self) -> None:
        """Wait for what is on its way, and let graphs and memory go.

        A device that has failed refuses everything, and keeps its memory until the process ends.
        """
        try:
            self._gpu.finish()
            self._graphs.clear()
            self._gpu.free_unused()
        except RuntimeError as error:
            self._graphs.clear()
            _log.warning("%s: the device gave no memory back: %s", self._label, one_line(error))

    def _start(self, batch: Batch) -> Running:
        gpu = self._gpu
        hosts = {name: as_tensor(batch.inputs[name], dtype) for name, dtype in self._dtypes.items()}
        with gpu.on(gpu.copy_in):
            inputs = {
                name: host.to(gpu.device, non_blocking=True, copy=True)
                for name, host in hosts.items()
            }
        arrived = gpu.mark(gpu.copy_in)
        with gpu.on(gpu.compute):
            gpu.after(gpu.compute, arrived)
            found = self._results.of(self._run(inputs), batch.rows, batch.outputs)
        computed = gpu.mark(gpu.compute)
        with gpu.on(gpu.copy_out), torch.inference_mode():
            gpu.after(gpu.copy_out, computed)
            outputs = {}
            for name, tensor in found.items():
                outputs[name] = gpu.pinned(tuple(tensor.shape), tensor.dtype)
                outputs[name].copy_(tensor, non_blocking=True)
        done = gpu.mark(gpu.copy_out)
        return Running(done, outputs, (batch, hosts, inputs, found))

    def _run(self, inputs: Tensors) -> Any:
        graph = self._graphs.get(_key(inputs))
        if graph is None:
            return self._computing(inputs)
        with torch.inference_mode():
            for name, tensor in inputs.items():
                graph.inputs[name].copy_(tensor, non_blocking=True)
            graph.graph.replay()
            # The next batch writes to the graph's own outputs while these are copied out.
            return torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, graph.value)  # noqa: SLF001


def _key(tensors: Tensors) -> tuple[tuple[int, ...], ...]:
    return tuple([tuple(tensor.shape) for tensor in tensors.values()])
