"""The executors: one for blocking code, one for coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

from batcher.executor import (
    Batch,
    BatchResult,
    Capabilities,
    LoadContext,
    ModelMetadata,
)
from batcher.executors.python.arguments import Arguments
from batcher.executors.python.model import read_model
from batcher.executors.python.options import PythonOptions
from batcher.executors.python.printing import printing_as

__all__ = ["AsyncPythonExecutor", "PythonExecutor"]

MAX_IN_FLIGHT: Final = 64
"""The most batches of one object of async code at once; the configuration chooses (`max_in_flight`)."""

MANY_VALUES: Final = 10_000
"""Elements from which a thread makes values of Python of them, and arrays of values: on the event loop
they would take 3 ms and more, and passing them to a thread takes 0.1 ms."""


class PythonExecutor:
    """Calls blocking code, on the thread of its instance."""

    capabilities = Capabilities(dynamic_axes=True)
    options = PythonOptions

    @classmethod
    def for_model(cls, context: LoadContext) -> type[PythonExecutor | AsyncPythonExecutor]:
        """The class for what the options name. Imports it; raises `ModelLoadError`."""
        return AsyncPythonExecutor if read_model(context).is_async else PythonExecutor

    def load(self, context: LoadContext) -> ModelMetadata:
        """Import the target and make its object. Raises `ModelLoadError`, which says what and where."""
        self._model = model = read_model(context, is_async=False)
        self._made: Any = model.make()
        if callable(getattr(self._made, "load", None)):
            model.guarded("load", lambda: self._made.load(*model.load_arguments(self._made)))
        self._call = model.callable_of(self._made)
        return model.metadata()

    def execute(self, batch: Batch) -> BatchResult:
        """Call it with all rows, or with each of them. Raises `ExecutionError`."""
        model = self._model
        arguments = Arguments(model.interface, batch)
        errors = arguments.row_errors
        if len(errors) == batch.rows:
            return model.none_result(errors, batch)
        with printing_as(model.context.model):
            if model.interface.per_row:
                return self._execute_rows(arguments, batch)
            try:
                result = self._call(**arguments.whole)
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                raise model.failed(error) from None
        return model.batch_result(result, errors, batch)

    def _execute_rows(self, arguments: Arguments, batch: Batch) -> BatchResult:
        model, errors = self._model, arguments.row_errors
        results: dict[int, object] = {}
        for row, given in enumerate(arguments.each_row()):
            if row in errors:
                continue
            try:
                results[row] = self._call(**given)
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                errors[row] = model.row_failed(error)
        return model.rows_result(results, errors, batch)

    def close(self) -> None:
        """Call the object's `close`, if it has one."""
        made, self._made, self._call = self._made, None, None
        close = getattr(made, "close", None)
        if callable(close):
            with printing_as(self._model.context.model):
                close()


class AsyncPythonExecutor:
    """Calls coroutine functions, on the event loop. Rows of a batch are called at the same time."""

    capabilities = Capabilities(dynamic_axes=True, max_in_flight=MAX_IN_FLIGHT)
    options = PythonOptions

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Import the target and make its object, on a thread. Raises `ModelLoadError`."""
        self._model = model = await asyncio.to_thread(read_model, context, is_async=True)
        self._made: Any = await asyncio.to_thread(model.make)
        load = getattr(self._made, "load", None)
        if inspect.iscoroutinefunction(load):
            try:
                with printing_as(model.context.model):
                    await load(*model.load_arguments(self._made))
            except (Exception, SystemExit) as error:
                raise model.load_failed("load", error) from error
        elif callable(load):
            given = model.load_arguments(self._made)
            await asyncio.to_thread(model.guarded, "load", lambda: load(*given))
        self._call = model.callable_of(self._made)
        return model.metadata()

    async def execute(self, batch: Batch) -> BatchResult:
        """Call it with all rows, or with each of them at the same time. Raises `ExecutionError`."""
        model = self._model
        many = model.values_in(batch) > MANY_VALUES
        if many:
            arguments = await asyncio.to_thread(Arguments, model.interface, batch)
        else:
            arguments = Arguments(model.interface, batch)
        errors = arguments.row_errors
        if len(errors) == batch.rows:
            return model.none_result(errors, batch)
        finish: Callable[[], BatchResult]
        if model.interface.per_row:
            results = await self._call_rows(arguments)
            finish = lambda: model.rows_result(results, errors, batch)  # noqa: E731 - the one of two
        else:
            result = await self._called(arguments.whole)
            if isinstance(result, _Raised):
                raise model.failed(result.error) from None
            finish = lambda: model.batch_result(result, errors, batch)  # noqa: E731 - see above
        return await asyncio.to_thread(finish) if many else finish()

    async def _call_rows(self, arguments: Arguments) -> dict[int, object]:
        """Row -> what its call returned. What is wrong with others is in the row errors."""
        errors = arguments.row_errors
        calls = {
            row: self._called(given)
            for row, given in enumerate(arguments.each_row())
            if row not in errors
        }
        results: dict[int, object] = {}
        for row, result in zip(calls, await asyncio.gather(*calls.values()), strict=True):
            if isinstance(result, _Raised):
                errors[row] = self._model.row_failed(result.error)
            else:
                results[row] = result
        return results

    async def close(self) -> None:
        """Call the object's `close`, if it has one."""
        made, self._made, self._call = self._made, None, None
        close = getattr(made, "close", None)
        with printing_as(self._model.context.model):
            if inspect.iscoroutinefunction(close):
                await close()
            elif callable(close):
                await asyncio.to_thread(close)

    async def _called(self, given: dict[str, Any]) -> object:
        """What the call returned, or what it raised: a SystemExit in a task would end the loop."""
        try:
            with printing_as(self._model.context.model):
                return await self._call(**given)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _Raised(error)  # of something that user code has cancelled
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            return _Raised(error)


class _Raised:
    """What a call raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
