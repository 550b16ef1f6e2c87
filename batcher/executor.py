"""The plugin contract: what a runtime must do to execute batches.

An executor is plain blocking code. The runtime creates one `Executor` per instance and calls
`load`, then `execute` any number of times, then `close`, all on that instance's own thread, so that
device contexts and session objects stay where they were made. `AsyncExecutor` is the same contract
with coroutines, called on the main event loop, for runtimes that live behind a network.

A distribution announces its executor as an entry point of the group `batcher.executors`; the
configuration names it. `batcher.testing.ExecutorContract` is the test suite to subclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from batcher.config.explain import explain
from batcher.config.files import unreadable
from batcher.config.section import FilePath, KeyPath
from batcher.config.section import Section as Options
from batcher.config.units import Duration, DurationOrZero, Size
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

__all__ = [
    "DTYPES",
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
    "ModelMetadata",
    "Options",
    "ParameterValue",
    "Problem",
    "ReportsHealth",
    "Size",
    "Tensor",
    "TensorSpec",
    "nothing_to_release",
    "option_problems",
    "options_model",
    "read_options",
]

Problem = tuple[KeyPath, str]
"""A path below `options`, and what is wrong there."""

ParameterValue = bool | int | float | str


class ExecutionError(Exception):
    """Raise from `execute` to say why a batch failed.

    `cause` is `"device"` when the device itself is at fault (the batch could succeed elsewhere),
    `"input"` when some row is, `"unknown"` otherwise. Any other exception counts as unknown.
    """

    def __init__(self, message: str, *, cause: str = "unknown") -> None:
        if cause not in ("device", "input", "unknown"):
            raise ValueError(f"cause must be 'device', 'input' or 'unknown', not {cause!r}")
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an executor class can do; the contract tests skip by these, never by name."""

    dynamic_rows: bool = True
    """Accepts any number of rows from 1 to `max_batch_size`. If not, every batch has exactly
    `max_batch_size`: shorter ones are filled up with copies of their last row, whose answers
    are dropped."""
    dynamic_axes: bool = False
    """Accepts models whose inputs have variable axes beside the row axis."""
    max_in_flight: int = 1
    """Batches one instance can take at once (more than 1 needs `AsyncExecutor`)."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """All an executor is told when it loads: one model, one instance, one device."""

    model: str
    version: str
    instance: int
    device: str
    max_batch_size: int
    """The most rows of a batch; 0 for a model without a batch axis, whose batches are one request
    each, its arrays as they came."""
    options: Mapping[str, Any]
    """The model's `options` from the configuration, as parsed YAML. The executor validates them:
    see `read_options`."""
    base_dir: Path = Path()
    """Where relative paths in `options` start: the folder of the configuration file."""
    batched: Mapping[str, bool] = field(default_factory=dict)
    """Input -> whether its first axis is the rows, where the configuration says so (`inputs`)."""


OptionsT = TypeVar("OptionsT", bound=Options)


def read_options(context: LoadContext, model: type[OptionsT]) -> OptionsT:
    """The context's `options` as an object of `model`, a subclass of `Options` (a pydantic model).

    A field of type `FilePath` comes back against `base_dir`, a `Duration` in nanoseconds, a `Size`
    in bytes. Raises `ModelLoadError`, which names the model and, for every wrong option, its name,
    the value and what is allowed; an unknown option is an error with the nearest known name.
    """
    try:
        return model.model_validate(dict(context.options), context={"base_dir": context.base_dir})
    except ValidationError as error:
        problems = [f"{_where(path)}: {text}" for path, text in explain(error, model)]
    raise ModelLoadError(f"model {context.model!r}: {'; '.join(problems)}")


def options_model(executor: type) -> type[Options] | None:
    """What the executor's `options` are read into: its class attribute `options`, if it has one.

    With it, `batcher check` knows wrong options without loading anything.
    """
    model = getattr(executor, "options", None)
    return model if isinstance(model, type) and issubclass(model, Options) else None


def option_problems(
    model: type[Options], options: Mapping[str, Any], base_dir: Path, *, files: bool
) -> list[Problem]:
    """What `read_options` would refuse; with `files` also every `FilePath` that cannot be read."""
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
    """What a loaded model takes and gives.

    Every shape starts with the row axis, -1, but for inputs that are not `batched`, and for all of
    a model without a batch axis (`max_batch_size` is 0 in its `LoadContext`).
    """

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    """Facts for people and logs, for example the execution provider in use."""
    parameters: tuple[str, ...] = ()
    """Request parameters that the executor reads: only requests with equal values share a batch.
    It is not told others, and they separate no batches."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one or more requests, gathered: one array per input, rows first.

    `inputs` holds each input the requests gave (an optional input may be absent), of equal row
    count `rows`; one that is not `batched` is there as it came, the same for all rows. The arrays
    are C-contiguous and belong to the requests: they may be read-only, and an executor never writes
    into them. `parameters` holds those that the metadata declares and the requests have. `outputs`
    is what the requests asked for; None means all.
    """

    inputs: Mapping[str, Array]
    rows: int
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    outputs: frozenset[str] | None = None


def nothing_to_release() -> None:
    """The default `release`: the arrays belong to nobody else."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answer to a `Batch`: every output with axis 0 of length `rows`, in the batch's order.

    `row_errors` maps a row number to the reason that row alone failed. `release` is called once,
    when the arrays have been copied out; until then they must not be reused.
    """

    outputs: Mapping[str, Array]
    row_errors: Mapping[int, str] = field(default_factory=dict)
    release: Callable[[], None] = nothing_to_release


@runtime_checkable
class Executor(Protocol):
    """A blocking runtime; one object per instance, every call on the same thread."""

    capabilities: Capabilities

    def load(self, context: LoadContext) -> ModelMetadata:
        """Make the model ready to execute. Raises `ModelLoadError` with the reason.

        Raise its subclass `BackendUnavailable` where another try may help, because something that
        the model needs is not up yet.
        """
        ...

    def execute(self, batch: Batch) -> BatchResult:
        """Run one batch. Raises `ExecutionError` (or anything) when the whole batch failed."""
        ...

    def close(self) -> None:
        """Free everything. Called once after a successful `load`, never during `execute`."""
        ...


@runtime_checkable
class AsyncExecutor(Protocol):
    """The same contract with coroutines, called on the main event loop.

    `execute` may be called again before an earlier call ended, up to `max_in_flight` times.
    """

    capabilities: Capabilities

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Make the model ready to execute. Raises `ModelLoadError` with the reason.

        Raise its subclass `BackendUnavailable` where another try may help, because something that
        the model needs is not up yet.
        """
        ...

    async def execute(self, batch: Batch) -> BatchResult:
        """Run one batch. Raises `ExecutionError` (or anything) when the whole batch failed."""
        ...

    async def close(self) -> None:
        """Free everything. Called once after a successful `load`."""
        ...


@runtime_checkable
class ReportsHealth(Protocol):
    """An executor that says by itself whether it could execute; the method is optional.

    It is called at an interval while no batch runs, where `execute` is: on the instance's thread, or
    on the event loop, where it is a coroutine. So it has to be quick: a batch that arrives meanwhile
    waits. One that takes longer than `models[].health.timeout` counts as not well.
    """

    def healthy(self) -> str | None:
        """Return None while all is well, else why not, for a person. What it raises says so, too."""
        ...
