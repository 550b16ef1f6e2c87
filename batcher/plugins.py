"""Finds executor classes by name, among the entry points of the group `batcher.executors`.

A plugin is imported only when a model uses it, so that a broken distribution cannot stop a server
that does not need it.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from batcher.config.section import nearest
from batcher.errors import ModelLoadError, PluginError, describe
from batcher.executor import AsyncExecutor, Capabilities, Executor, LoadContext

__all__ = ["GROUP", "executor_names", "find_executor", "for_model", "is_async", "plugin_of"]

GROUP: Final = "batcher.executors"
"""The entry point group of executor plugins."""

_OWN_PLUGINS: Final = {
    "onnxruntime": "plugins/onnxruntime[cpu]",
    "openvino": "plugins/openvino[openvino]",
    "torch": "plugins/torch[torch]",
}
"""Executors of this project that are plugins -> what to `pip install` in a checkout."""

_METHODS: Final = ("load", "execute", "close")


def executor_names() -> list[str]:
    """The names of the installed executors, sorted. Imports nothing."""
    return sorted(entry_points(group=GROUP).names)


def find_executor(name: str) -> type[Executor] | type[AsyncExecutor]:
    """Import and return the executor class with the entry point `name`.

    Raises `PluginError` if the name is unknown (the message has the nearest known one), if two
    distributions claim it, if the import fails, or if it is not an executor class.
    """
    claims = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not claims:
        raise PluginError(_unknown(name))
    if len(claims) > 1:
        claimants = " and ".join(sorted(_claim(point) for point in claims.values()))
        raise PluginError(f"executor {name!r} is claimed by {claimants}; uninstall all but one")
    (point,) = claims.values()
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"executor {name!r} ({_claim(point)}) could not be imported: {describe(error)}"
        ) from error
    problem = _not_an_executor(found)
    if problem:
        raise PluginError(f"executor {name!r} ({_claim(point)}) is not an executor: {problem}")
    executor: type[Executor] | type[AsyncExecutor] = found
    return executor


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
    problem = _not_an_executor(chosen)
    if problem:
        raise ModelLoadError(
            f"model {context.model!r}: for_model() of {executor.__name__} returned no executor: {problem}"
        )
    found: type[Executor] | type[AsyncExecutor] = chosen
    return found


def is_async(executor: type) -> bool:
    """Whether an executor class is an `AsyncExecutor` (its methods are coroutine functions)."""
    return inspect.iscoroutinefunction(getattr(executor, "execute", None))


def plugin_of(name: str) -> str:
    """How to install the executor `name`, as the end of a sentence."""
    if name in _OWN_PLUGINS:
        return f"to install it: pip install '{_OWN_PLUGINS[name]}' in a checkout"
    return "install the plugin that has it"


def _unknown(name: str) -> str:
    known = executor_names()
    hint = nearest(name, known)
    guess = f" (did you mean {hint!r}?)" if hint else ""
    installed = ", ".join(known) or "none"
    return f"no executor named {name!r}{guess}; installed: {installed}; {plugin_of(name)}"


def _claim(point: EntryPoint) -> str:
    where = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.value}{where}"


def _not_an_executor(found: object) -> str | None:
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
