"""Checks executor classes, and chooses the one for a model, before objects are made of them."""

from __future__ import annotations

import inspect
from typing import Final

from batcher.errors import ModelLoadError, describe
from batcher.executor.loading import Capabilities, LoadContext
from batcher.executor.protocols import AsyncExecutor, Executor

_METHODS: Final = ("load", "execute", "close")


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
