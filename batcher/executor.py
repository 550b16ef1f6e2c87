"""The contract between batcher and a runtime that executes models. Import it from here only.

An executor is a class with three methods. batcher makes one object per model instance and calls
`load` once, `execute` for each batch, and `close` once at the end.

- `Executor` is blocking code. All calls of one object run on one thread of its own, so that device
  contexts and sessions stay on the thread that made them. Different objects run concurrently.
- `AsyncExecutor` has the same methods as coroutines. They run on the server's event loop, for
  runtimes that are reached over a network, and must never block it.

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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from batcher.clock import SECOND
from batcher.config.explain import explain
from batcher.config.files import unreadable
from batcher.config.section import FilePath, KeyPath
from batcher.config.section import Section as Options
from batcher.config.units import Duration, DurationOrZero, Size
from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

__all__ = [
    "DTYPES",
    "TRACE_METADATA",
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

Problem = tuple[KeyPath, str]
"""The path of a wrong option below `options`, and what is wrong with it."""

ParameterValue = bool | int | float | str
"""A value of a request parameter."""

MetadataValue = str | bytes
"""A value of a caller's metadata: bytes where the name ends with `-bin`."""

CAUSES: Final = ("device", "input", "overloaded", "unavailable", "unknown")
"""The causes of an `ExecutionError`."""

MAX_RETRY_AFTER_NS: Final = 3600 * SECOND
"""Nanoseconds: the longest delay that a caller is told to wait for a backend; a longer one is cut."""


class ExecutionError(Exception):
    """Raise this from `execute` to say why the whole batch failed.

    `message` goes to the callers, on one line and shortened. `cause` decides what happens next:

    - `"input"`: some row of the batch is wrong. Parts of the batch are executed again to find the
      request that has it (bisection). That request ends with INVALID_ARGUMENT, the others are
      answered.
    - `"device"`: the device or the runtime is broken. Nothing is executed again; the requests end
      with UNAVAILABLE, so that callers retry.
    - `"overloaded"`: the backend has no room and has not executed the batch. Nothing is executed
      again; the requests end with RESOURCE_EXHAUSTED.
    - `"unavailable"`: the backend is not there, is draining, or the connection was lost. Nothing is
      executed again; the requests end with UNAVAILABLE.
    - `"unknown"` (the default, and what every other exception counts as): as `"input"`, but the
      request ends with INTERNAL.

    `"overloaded"` and `"unavailable"` say nothing of the model: nothing is learned of service times
    or of failing requests, and the batch does not count towards `health.failure_threshold`
    (`Watches` tells what is unhealthy). `retry_after_ns` is when the backend wants callers to come
    back (nanoseconds, cut to `MAX_RETRY_AFTER_NS`); None leaves it to batcher. The other causes ignore it.

    If you know which rows are wrong, return `BatchResult.row_errors` instead: that costs no retry.
    """

    def __init__(
        self, message: str, *, cause: str = "unknown", retry_after_ns: int | None = None
    ) -> None:
        if cause not in CAUSES:
            raise ValueError(f"cause must be one of {', '.join(CAUSES)}, not {cause!r}")
        if retry_after_ns is not None and retry_after_ns < 0:
            raise ValueError(f"retry_after_ns must not be negative, got {retry_after_ns}")
        super().__init__(message)
        self.cause = cause
        self.retry_after_ns = (
            None if retry_after_ns is None else int(min(retry_after_ns, MAX_RETRY_AFTER_NS))
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an executor class can do. A class attribute of the executor: `capabilities`."""

    dynamic_rows: bool = True
    """Whether `execute` takes any number of rows from 1 to `max_batch_size`. If False, every batch
    has exactly `max_batch_size` rows: smaller ones are filled with copies of their last row, and
    the outputs of those copies are dropped."""
    dynamic_axes: bool = False
    """Whether it can load models whose inputs have variable axes after the batch axis."""
    max_in_flight: int = 1
    """The most batches that one object can execute at the same time. Only an `AsyncExecutor` can have
    more than 1. The configuration (`models[].max_in_flight`) chooses a number up to this."""
    raw: bool = False
    """Whether `execute` takes the inputs as they are on the wire (`Batch.raw`), and no arrays: for a
    runtime to which batches are sent on. Outputs are arrays all the same."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """The argument of `load`: the model, the instance and the device."""

    model: str
    """The model's name, for messages."""
    version: str
    """The model's version, for messages."""
    instance: int
    """Number of this instance among the model's instances, from 0."""
    device: str
    """The device to load on, as the configuration names it: `cpu`, `cuda:0` or your own words."""
    max_batch_size: int
    """The most rows of a batch. 0 for a model without a batch axis: then each batch is one request,
    whose arrays arrive as they were sent."""
    options: Mapping[str, Any]
    """`models[].options` of the configuration, as parsed YAML. Validate them with `read_options`."""
    base_dir: Path = Path()
    """The folder of the configuration file, where relative paths in `options` start."""
    batched: Mapping[str, bool] = field(default_factory=dict)
    """Input -> whether axis 0 is the batch axis, for inputs that the configuration (`inputs`) names."""
    sequence_slots: int = 0
    """Under `sequence.strategy: slot`, how many sequences the object keeps state for at once; else 0."""


OptionsT = TypeVar("OptionsT", bound=Options)


def read_options(context: LoadContext, model: type[OptionsT]) -> OptionsT:
    """Return `context.options` as an object of `model`, your subclass of `Options` (pydantic).

    A field of type `FilePath` is returned relative to `base_dir`, a `Duration` in nanoseconds, a
    `Size` in bytes. Raises `ModelLoadError`, which names the model and, for every wrong or unknown
    option, its name, its value and what is allowed.
    """
    try:
        return model.model_validate(dict(context.options), context={"base_dir": context.base_dir})
    except ValidationError as error:
        problems = [f"{_where(path)}: {text}" for path, text in explain(error, model)]
    raise ModelLoadError(f"model {context.model!r}: {'; '.join(problems)}")


def options_model(executor: type) -> type[Options] | None:
    """Return the executor's class attribute `options` if it is a subclass of `Options`, else None.

    With that attribute, `batcher check` finds wrong options without loading the model.
    """
    model = getattr(executor, "options", None)
    return model if isinstance(model, type) and issubclass(model, Options) else None


def option_problems(
    model: type[Options], options: Mapping[str, Any], base_dir: Path, *, files: bool
) -> list[Problem]:
    """Return what `read_options` would refuse; with `files`, also each `FilePath` that is unreadable."""
    try:
        found = model.model_validate(dict(options), context={"base_dir": base_dir})
    except ValidationError as error:
        return list(explain(error, model))
    return list(_unreadable(found, ())) if files else []


def _unreadable(value: object, path: KeyPath) -> Iterator[Problem]:
    if isinstance(value, Path):
        problem = unreadable(value)
        if problem:
            yield path, problem
    elif isinstance(value, Options):
        for name in type(value).model_fields:
            yield from _unreadable(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _unreadable(each, (*path, key))
    elif isinstance(value, (tuple, list)):
        for place, each in enumerate(value):
            yield from _unreadable(each, (*path, place))


def _where(path: KeyPath) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return f"option {''.join(steps).removeprefix('.')}" if path else "options"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What `load` returns: the inputs and outputs of the model.

    Every shape starts with the batch axis, -1: `(-1, 384)` is `[batch, 384]`. Exceptions: inputs
    with `batched=False`, and models without a batch axis (`LoadContext.max_batch_size` is 0).
    """

    platform: str
    """The runtime's name, which clients see in the model's metadata, such as `onnxruntime`."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    """Facts for logs and people, such as the execution provider in use."""
    parameters: tuple[str, ...] = ()
    """Names of the request parameters that `execute` reads. Only requests with equal values of
    these share a batch. `Batch.parameters` has no others."""
    metadata: tuple[str, ...] = ()
    """Names of the caller's metadata (gRPC headers, in lower case) that `execute` sends on. Only
    requests with equal values of these share a batch, except for the trace context
    (`TRACE_METADATA`), of which a batch has its first request's. `Batch.metadata` has no others, and
    no other metadata of a caller leaves the server."""
    max_batch_size: int | None = None
    """The most rows that the backend takes in one batch; None if it does not say. It is the model's
    `batching.max_batch_size` where the configuration has none; a load fails where that has more."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """The batch sizes that the backend executes best. They are the model's where its policy takes
    preferred sizes and the configuration has none."""


TRACE_METADATA: Final = frozenset({"traceparent", "tracestate", "baggage", "grpc-trace-bin"})
"""Metadata of the trace context (W3C Trace Context, W3C Baggage, and gRPC's own). Requests that differ in
these share batches."""


@dataclass(frozen=True, slots=True)
class SequenceRow:
    """Which step of which sequence a row is. A batch has at most one row of a sequence."""

    id: int | str
    """The id that the client chose, unique only among the sequences of one caller."""
    slot: int
    """Under `sequence.strategy: slot`, where the executor keeps the sequence's state: from 0 to
    `LoadContext.sequence_slots` - 1, the same for all its steps. -1 under the strategy `state`."""
    start: bool
    """Whether it is the first step: whatever the slot held before belongs to another sequence."""
    end: bool
    """Whether it is the last step."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The argument of `execute`: the rows of one or more requests, gathered.

    A batch whose requests have all ended (cancelled, expired) is cancelled: the coroutine of
    `execute` gets a `CancelledError` and should end at once. A thread cannot be cancelled.

    The arrays are C-contiguous and aligned. They may be views of the requests' messages, so they
    may be read-only, and an executor must not write to them or keep them after `execute` returns.
    """

    inputs: Mapping[str, Array]
    """Input -> array `[rows, ...]` of the dtype in `DTYPES`. An optional input that the requests
    lack is absent. An input with `batched=False` has its own shape and belongs to all rows."""
    rows: int
    """The number of rows, from 1 to `max_batch_size`."""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    """The request parameters that `ModelMetadata.parameters` declares and the requests have."""
    outputs: frozenset[str] | None = None
    """The outputs that at least one request wants; None for all. Others may be left out."""
    deadline_ns: int | None = None
    """When the last caller stops waiting (nanoseconds of `time.monotonic_ns`); None if one of the
    requests has no deadline."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """The caller's metadata that `ModelMetadata.metadata` names and the requests have."""
    raw: Mapping[str, Sequence[memoryview]] = field(default_factory=dict)
    """With `Capabilities(raw=True)`, instead of `inputs` (which is empty then): input -> the pieces of
    its contents, as bytes. Concatenated, they are the elements in row-major order, little-endian; each
    element of BYTES comes after its length (four bytes). The same promises as for arrays."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """With `Capabilities(raw=True)`: input -> the shape of its contents, the rows first."""
    sequences: Sequence[SequenceRow] = ()
    """For a model with the section `sequence`: what each row is a step of, in the order of the rows.
    Rows beyond these only fill the batch up (`Capabilities.dynamic_rows`); warm-up and test batches
    have none."""


def nothing_to_release() -> None:
    """The default of `BatchResult.release`, for arrays that the executor does not reuse."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What `execute` returns."""

    outputs: Mapping[str, Array]
    """Output -> array `[rows, ...]` in the order of the batch's rows, of the dtype in `DTYPES` for
    its datatype. Every output in `Batch.outputs` must be there."""
    row_errors: Mapping[int, str] = field(default_factory=dict)
    """Row -> why this row failed (from 0). Its request is refused with that message; the others of
    the batch are answered. The outputs need some value in that row."""
    release: Callable[[], None] = nothing_to_release
    """Called once, when the arrays are no longer needed. Set it if you reuse the arrays' memory for
    other batches: until it is called they must not change. It may run on another thread."""


@runtime_checkable
class Executor(Protocol):
    """A blocking runtime: one object per instance, every call on that object's own thread."""

    capabilities: Capabilities

    def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model and return its inputs and outputs. May take minutes.

        Raise `ModelLoadError` with the reason if it cannot be loaded, or its subclass
        `OutOfMemory` if the device has no room for it beside what is loaded there, or
        `BackendUnavailable` if something that the model needs is not up yet: then the load is
        repeated with increasing pauses. After an exception, `close` is not called.
        """
        ...

    def execute(self, batch: Batch) -> BatchResult:
        """Execute one batch and return when its outputs are complete.

        Raise `ExecutionError` (any exception will do) if the whole batch failed; return
        `row_errors` if single rows did. After a failure, parts of the batch may be executed again.
        """
        ...

    def close(self) -> None:
        """Free everything. Called once after a successful `load`, on the same thread.

        It is never called during `execute`, and so not at all if a call of `execute` never returns.
        """
        ...


@runtime_checkable
class AsyncExecutor(Protocol):
    """The same contract with coroutines, which run on the server's event loop and must not block it.

    Up to `max_in_flight` calls of `execute` run at the same time. A call is cancelled when it takes
    longer than `models[].execute_timeout`.
    """

    capabilities: Capabilities

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model and return its inputs and outputs; see `Executor.load`."""
        ...

    async def execute(self, batch: Batch) -> BatchResult:
        """Execute one batch; see `Executor.execute`."""
        ...

    async def close(self) -> None:
        """Free everything. Called once after a successful `load`, when no `execute` runs."""
        ...


@runtime_checkable
class ReportsHealth(Protocol):
    """An executor with the optional method `healthy`, for runtimes that know when they are broken.

    It is called every `models[].health.interval` while no batch runs, where `execute` is called: on
    the object's thread, or as a coroutine on the event loop. Return quickly, because a batch that
    arrives meanwhile waits. A call that takes longer than `models[].health.timeout` counts as
    unhealthy.
    """

    def healthy(self) -> str | None:
        """Return None if healthy, else the reason, for people. An exception counts as a reason."""
        ...


@runtime_checkable
class Watches(Protocol):
    """An `AsyncExecutor` with the optional method `watch`, for backends that change by themselves.

    It is called once after a successful `load` and runs until the instance goes down, when it is
    cancelled. It calls `report("why")` when the backend cannot serve, and `report("")` when it can
    again: readiness follows at once, while the instance executes what it gets. When it returns, the
    backend has another model now: the model is loaded again, beside this object, which serves until
    then. What it raises counts as a report, and it is called again after a pause.
    """

    async def watch(self, report: Callable[[str], None]) -> None:
        """Report changes of the backend's health; return when the model must be loaded again."""
        ...
