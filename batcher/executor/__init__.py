"""The contract between batcher and a runtime that executes models. Import it from here only.

An executor is a class with three methods. batcher makes one object per model instance and calls
`load` once, `execute` for each batch, and `close` once at the end.

- `Executor` is blocking code. All calls of one object run on one thread of its own, so that device
  contexts and sessions stay on the thread that made them. Different objects run concurrently.
- `AsyncExecutor` has the same methods as coroutines. They run on the server's event loop, for
  runtimes that are reached over a network, and must never block it.

Where that thread or loop is, in the server or in a child process, is the operator's choice
(`models[].isolation`). A blocking executor may have more methods: `allocate` (`Allocates`), `submit` and
`collect` (`Pipelines`), `healthy` (`ReportsHealth`).

A smallest executor:

    class Doubler:
        capabilities = Capabilities()

        def load(self, context: LoadContext) -> ModelMetadata:
            x, y = TensorSpec("X", "FP32", (-1, 4)), TensorSpec("Y", "FP32", (-1, 4))
            return ModelMetadata("doubler", inputs=(x,), outputs=(y,))

        def execute(self, batch: Batch) -> BatchResult:
            return BatchResult({"Y": 2 * batch.inputs["X"]})

        def close(self) -> None: ...

A distribution announces its class as an entry point of the group `batcher.executors`, and a model's
configuration names it (`models[].executor`). Subclass `batcher.testing.ExecutorContract` to test it.
A call of `execute` that takes longer than `models[].execute_timeout` is abandoned: its requests fail,
and a new object is loaded. The guide is docs/writing-an-executor.md.
"""

from __future__ import annotations

from batcher.config.section import FilePath
from batcher.config.section import Section as Options
from batcher.config.units import Duration, DurationOrZero, Size
from batcher.errors import BackendUnavailable, OutOfMemory
from batcher.executor.batch import (
    Batch,
    BatchResult,
    MetadataValue,
    ParameterValue,
    SequenceRow,
    nothing_to_release,
)
from batcher.executor.failure import CAUSES, MAX_RETRY_AFTER_NS, ExecutionError
from batcher.executor.loading import TRACE_METADATA, Capabilities, LoadContext, ModelMetadata
from batcher.executor.options import Problem, option_problems, options_model, read_options
from batcher.executor.protocols import (
    Allocates,
    AsyncExecutor,
    Executor,
    Pipelines,
    ReportsHealth,
    Watches,
)
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

__all__ = [
    "CAUSES",
    "DTYPES",
    "MAX_RETRY_AFTER_NS",
    "TRACE_METADATA",
    "Allocates",
    "Array",
    "AsyncExecutor",
    "BackendUnavailable",
    "Batch",
    "BatchResult",
    "Capabilities",
    "Duration",
    "DurationOrZero",
    "ExecutionError",
    "Executor",
    "FilePath",
    "LoadContext",
    "MetadataValue",
    "ModelMetadata",
    "Options",
    "OutOfMemory",
    "ParameterValue",
    "Pipelines",
    "Problem",
    "ReportsHealth",
    "SequenceRow",
    "Size",
    "Tensor",
    "TensorSpec",
    "Watches",
    "nothing_to_release",
    "option_problems",
    "options_model",
    "read_options",
]
