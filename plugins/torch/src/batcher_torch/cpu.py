"""Runs batches on the CPU, in the memory of the requests and without a copy where that is safe."""

from __future__ import annotations

import logging
from typing import Final

import torch

from batcher.executor import Array, Batch, BatchResult
from batcher_torch.computing import Computing
from batcher_torch.datatypes import TORCH_DTYPES, as_array, as_tensor, changed
from batcher_torch.memory import weights
from batcher_torch.results import Results
from batcher_torch.shapes import Shapes
from batcher_torch.threads import IntraOp

_log: Final = logging.getLogger(__name__)


class CpuRunner:
    """Runs one batch at a time on the calling thread.

    Inputs are tensors in the batch's own memory. A model that writes to them is found out by its
    first batch, which is one of the warm-up, and gets copies from then on. Outputs that lie in the
    memory of inputs or weights are copied, because that changes or is used again.
    """

    def __init__(
        self, computing: Computing, results: Results, threads: IntraOp, run: object, label: str
    ) -> None:
        self._computing = computing
        self._results = results
        self._threads = threads
        self._label = label
        self._dtypes = {spec.name: TORCH_DTYPES[spec.datatype] for spec in computing.inputs}
        self._copies = False
        self._kept: frozenset[int] = frozenset()
        if isinstance(run, torch.nn.Module):
            self._kept = frozenset(each.untyped_storage().data_ptr() for each in weights(run))

    def compile_for(self, shapes: Shapes) -> None:
        """Compile the model for batches of these shapes."""
        self._threads.use()
        self._computing.compile_for(shapes)

    def execute(self, batch: Batch) -> BatchResult:
        """Run the batch. Raises whatever the model raises."""
        self._threads.use()
        tensors = {
            name: as_tensor(batch.inputs[name], dtype) for name, dtype in self._dtypes.items()
        }
        if self._copies:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        value = self._computing(tensors)
        if not self._copies and any(map(changed, tensors.values())):
            self._copies = True
            _log.warning(
                "%s writes to its inputs: each batch is copied for it from now on", self._label
            )
        found = self._results.of(value, batch.rows, batch.outputs)
        kept = self._kept | {each.untyped_storage().data_ptr() for each in tensors.values()}
        return BatchResult({name: _array(tensor, kept) for name, tensor in found.items()})


def _array(tensor: torch.Tensor, kept: frozenset[int]) -> Array:
    array = as_array(tensor)
    copied = tensor.numel() == 0 or tensor.untyped_storage().data_ptr() not in kept
    return array if copied else array.copy()
