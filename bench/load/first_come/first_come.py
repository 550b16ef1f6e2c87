"""What batching without regard to length costs: an executor that pads a batch to its longest row.

Its input `tokens` is a text that holds a sentence's token ids, so that sentences of any length are
of equal shape and share batches in the order in which they came. The folder is an installed
distribution to a server that has it on its `PYTHONPATH`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from batcher.executor import (
    Batch,
    BatchResult,
    Capabilities,
    LoadContext,
    ModelMetadata,
    TensorSpec,
)
from batcher_onnxruntime import OnnxRuntimeExecutor


class FirstComeExecutor:
    """`tokens` BYTES [-1, 1] (little-endian int64 ids) -> what the model says, and `padded` INT32."""

    capabilities = Capabilities()

    def __init__(self) -> None:
        self._inner = OnnxRuntimeExecutor()

    def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model behind it."""
        metadata = self._inner.load(context)
        padded = TensorSpec("padded", "INT32", (-1, 1))
        inputs = (TensorSpec("tokens", "BYTES", (-1, 1)),)
        return replace(metadata, inputs=inputs, outputs=(*metadata.outputs, padded))

    def execute(self, batch: Batch) -> BatchResult:
        """Pad, run, and say how long the rows were made."""
        rows = [np.frombuffer(text, "<i8") for text in batch.inputs["tokens"][:, 0]]
        longest = max(1, *map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        inner = Batch({"input_ids": ids, "attention_mask": mask}, len(rows), outputs=None)
        result = self._inner.execute(inner)
        padded = np.full((len(rows), 1), longest, np.int32)
        return BatchResult({**result.outputs, "padded": padded}, result.row_errors, result.release)

    def close(self) -> None:
        """Close the model behind it."""
        self._inner.close()
