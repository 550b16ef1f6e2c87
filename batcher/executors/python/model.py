"""What both executors share: what is called and how, and what its errors mean."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from batcher.clock import SECOND
from batcher.errors import ModelLoadError, describe, on_one_line
from batcher.executor import (
    Batch,
    BatchResult,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    read_options,
)
from batcher.executors.python.annotations import RowError
from batcher.executors.python.answers import Answers
from batcher.executors.python.interface import read_interface
from batcher.executors.python.options import PythonOptions
from batcher.executors.python.printing import printing_as
from batcher.executors.python.target import Target, explained, find_target

__all__ = ["PythonModel", "read_model"]

log = logging.getLogger(__name__)

LOG_PAUSE_NS: Final = 10 * SECOND
"""Nanoseconds between two lines with the traceback of what a function raised."""


class PythonModel:
    """One model: its target, its interface, and what its calls raise."""

    def __init__(self, context: LoadContext, options: PythonOptions) -> None:
        self.context = context
        self.target = find_target(context, options)
        self.is_async = _is_async(context, self.target)
        self.interface = read_interface(context, options, self.target)
        self.answers = Answers(self.interface, self.target.name)
        self._values = [each.spec.name for each in self.interface.inputs if each.value is not None]
        self._args = options.args
        self._logged_ns = 0

    def metadata(self) -> ModelMetadata:
        """What the server is told."""
        return ModelMetadata(
            platform="python",
            inputs=tuple(each.spec for each in self.interface.inputs),
            outputs=self.interface.outputs,
            properties={
                "target": self.target.name,
                "called": "for each row" if self.interface.per_row else "for each batch",
            },
            parameters=tuple(dict.fromkeys(each.parameter for each in self.interface.parameters)),
        )

    def make(self) -> object:
        """The object whose method is called; None for a function. Raises `ModelLoadError`."""
        made_of = self.target.made_of
        if made_of is None:
            return None
        try:
            inspect.signature(made_of).bind(**self._args)
        except ValueError:
            pass  # it has no signature
        except TypeError as error:
            raise ModelLoadError(
                f"model {self.context.model!r}: option args: {made_of.__name__}: {error}"
            ) from None
        return self.guarded("__init__", lambda: made_of(**self._args))

    def callable_of(self, made: object) -> Any:
        """What is called: the function, or the method of the object that was made."""
        if self.target.made_of is None:
            return self.target.call
        return made if self.target.method == "__call__" else getattr(made, self.target.method)

    def values_in(self, batch: Batch) -> int:
        """How many elements the function gets as values of Python."""
        return sum(batch.inputs[name].size for name in self._values if name in batch.inputs)

    def guarded(self, what: str, call: Callable[[], Any]) -> Any:
        """Call what belongs to the load. Raises `ModelLoadError` with what was raised, and where."""
        try:
            with printing_as(self.context.model):
                return call()
        except (Exception, SystemExit) as error:
            raise self.load_failed(what, error) from error

    def load_failed(self, what: str, error: BaseException) -> ModelLoadError:
        """The error of a load in which user code raised."""
        if isinstance(error, ModelLoadError):
            return error
        return ModelLoadError(
            f"model {self.context.model!r}: option target: {what} of {self.target.name} raised"
            f" {explained(error)}"
        )

    def load_arguments(self, made: Any) -> tuple[LoadContext, ...]:
        """The argument of `load`: the context, if it takes one."""
        takes = inspect.signature(made.load).parameters
        return (self.context,) if takes else ()

    def failed(self, error: BaseException) -> ExecutionError:
        """Why a call failed, as the contract says it."""
        if isinstance(error, ExecutionError):
            return error
        if isinstance(error, RowError):
            return ExecutionError(_message(error), cause="input")
        now_ns = time.monotonic_ns()
        if not self._logged_ns or now_ns - self._logged_ns > LOG_PAUSE_NS:
            self._logged_ns = now_ns
            log.warning("%s: %s raised", self.context.model, self.target.name, exc_info=error)
        cause = "memory" if isinstance(error, MemoryError) else "unknown"
        return ExecutionError(f"{self.target.name} raised {describe(error)}", cause=cause)

    def row_failed(self, error: BaseException) -> str:
        """What is wrong with the row whose call raised. Raises `ExecutionError` if it is not the row."""
        if isinstance(error, (RowError, ValueError)):
            return _message(error)
        raise self.failed(error) from None

    def rows_result(
        self, results: Mapping[int, object], errors: dict[int, str], batch: Batch
    ) -> BatchResult:
        """The result of a batch whose rows were called one by one."""
        if not results:
            return self.none_result(errors, batch)
        return BatchResult(self.answers.of_rows(results, batch.rows, batch.outputs), errors)

    def none_result(self, errors: dict[int, str], batch: Batch) -> BatchResult:
        """The result of a batch whose rows have all failed."""
        return BatchResult(self.answers.of_none(batch), errors)

    def batch_result(self, result: object, errors: dict[int, str], batch: Batch) -> BatchResult:
        """The result of a batch that was called as one."""
        if isinstance(result, BatchResult):
            errors = {**errors, **result.row_errors}
            outputs = self.answers.of_batch(result.outputs, batch.rows, batch.outputs)
            return BatchResult(outputs, errors, result.release)
        return BatchResult(self.answers.of_batch(result, batch.rows, batch.outputs), errors)


def read_model(context: LoadContext, *, is_async: bool | None = None) -> PythonModel:
    """The model of this context. Imports its target; raises `ModelLoadError`.

    `is_async` says what the executor can call: coroutines, or blocking code. None: either.
    """
    with printing_as(context.model):
        model = PythonModel(context, read_options(context, PythonOptions))
    if is_async not in (None, model.is_async):
        style = "a coroutine" if model.is_async else "blocking"
        raise ModelLoadError(
            f"model {context.model!r}: option target: {model.target.name} is {style} now and was not"
            " when the executor was chosen"
        )
    return model


def _message(error: BaseException) -> str:
    """The message of an error that was raised for the caller, on one line."""
    try:
        text = on_one_line(str(error))
    except Exception:  # noqa: BLE001 - user code has its own `__str__`
        text = ""
    return text or type(error).__name__


def _is_async(context: LoadContext, target: Target) -> bool:
    """Whether coroutines are to be awaited. Raises `ModelLoadError` for a generator, or a mixture."""
    call = target.call if inspect.isroutine(target.call) else type(target.call).__call__
    label = f"model {context.model!r}: option target: {target.name}"
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ModelLoadError(
            f"{label} is a generator; allowed: a function that returns its outputs"
        )
    if inspect.iscoroutinefunction(target.call) or inspect.iscoroutinefunction(call):
        return True
    for method in ("load", "close"):
        if inspect.iscoroutinefunction(getattr(target.made_of, method, None)):
            raise ModelLoadError(
                f"{label} is blocking, and {method} is a coroutine; allowed: both blocking, or"
                f" {target.method} a coroutine"
            )
    return False
