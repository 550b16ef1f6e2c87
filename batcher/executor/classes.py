"""Checks executor classes, and chooses the one for a model, before objects are made of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from batcher.errors import ModelLoadError, describe
from batcher.executor.loading import Capabilities, LoadContext
from batcher.executor.protocols import AsyncExecutor, Executor

_METHODS: Final = ("load", "execute", "close")

_OPTIONAL: Final = ("allocate", "submit", "collect")
"""Methods that a blocking executor may have (`Allocates`, `Pipelines`)."""


@dataclass(frozen=True, slots=True)
class ExecutorPath:
    """Where a child process finds an executor's class. The server itself does not import it."""

    path: str
    """`module:Class`."""

    @classmethod
    def of(cls, kind: type) -> ExecutorPath:
        """The path of a class. Raises `ModelLoadError` for one that another process cannot import."""
        path = f"{kind.__module__}:{kind.__qualname__}"
        if "<locals>" in path or kind.__module__ == "__main__":
            raise ModelLoadError(
                f"isolation: got 'process', and a child process cannot import the executor {path};"
                " allowed: a class of an installed module"
            )
        return cls(path)


def not_an_executor(found: object) -> str | None:
    """Why `found` is not an executor class; None if it is one."""
    if not inspect.isclass(found):
        return f"expected a class, got {type(found).__name__}"
    missing = [method for method in _METHODS if not callable(getattr(found, method, None))]
    if missing:
        return f"{found.__name__} has no method {', '.join(missing)}"
    if not isinstance(getattr(found, "capabilities", None), Capabilities):
        return f"{found.__name__}.capabilities must be a class attribute of type Capabilities"
    coroutines = [m for m in _METHODS if inspect.iscoroutinefunction(getattr(found, m))]
    if coroutines and len(coroutines) < len(_METHODS):
        mixed = f"{found.__name__} mixes blocking methods and coroutines ({', '.join(coroutines)})"
        return f"{mixed}; make all of {', '.join(_METHODS)} coroutines, or none"
    return None


def for_model(
    executor: type[Executor] | type[AsyncExecutor], context: LoadContext
) -> type[Executor] | type[AsyncExecutor]:
    """The executor class for one model: `executor`, or what its class method `for_model` returns.

    Raises `ModelLoadError`, whatever that raised.
    """
    choose = getattr(executor, "for_model", None)
    if choose is None:
        return executor
    try:
        chosen = choose(context)
    except ModelLoadError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"model {context.model!r}: the executor could not load: {describe(error)}"
        ) from error
    problem = not_an_executor(chosen)
    if problem:
        raise ModelLoadError(
            f"model {context.model!r}: for_model() of {executor.__name__} returned no executor: {problem}"
        )
    found: type[Executor] | type[AsyncExecutor] = chosen
    return found


def class_problems(
    kind: type, capabilities: Capabilities, isolation: str, max_in_flight: int
) -> Iterator[tuple[str, str]]:
    """What cannot be so of an executor's class, by the key of the model that it is about."""
    coroutines = inspect.iscoroutinefunction(getattr(kind, "execute", None))
    most: object = capabilities.max_in_flight
    declares = f"it declares Capabilities(max_in_flight={most})"
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        yield "executor", f"{declares}; allowed: a whole number from 1"
    elif most > 1 and not coroutines:
        because = "and is blocking: all its calls are made by one thread"
        yield "executor", f"{declares}, {because}; allowed: 1"
    elif max_in_flight > most:
        allowed = f"1 to {most}, the most batches that the executor can run at once"
        yield "max_in_flight", f"got {max_in_flight}; allowed: {allowed}"
    if isolation == "process" and (capabilities.raw or getattr(kind, "sends_on", False)):
        because = f"its executor {kind.__name__} sends batches on to another server"
        yield "isolation", f"got 'process'; allowed: thread, as {because}"
    for problem in _optional_methods(kind, raw=capabilities.raw, coroutines=coroutines):
        yield "executor", problem


def _optional_methods(kind: type, *, raw: bool, coroutines: bool) -> Iterator[str]:
    given = [name for name in _OPTIONAL if callable(getattr(kind, name, None))]
    has = f"it has the method {' and '.join(given)}"
    if not given:
        return
    if coroutines:
        yield f"{has}, which only a blocking executor can have, and its execute is a coroutine"
        return
    if len({"submit", "collect"}.intersection(given)) == 1:
        yield f"{has}; allowed: submit and collect together"
    if raw and "allocate" in given:
        yield f"{has}, and declares Capabilities(raw=True): it gets no arrays; allowed: one of them"
    for name in given:
        if inspect.iscoroutinefunction(getattr(kind, name)):
            yield f"its method {name} is a coroutine; allowed: a blocking method"
