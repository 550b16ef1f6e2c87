"""Finds executors: entry points of the group `batcher.executors`, by name.

A plugin is imported only when a model asks for it, so that one broken distribution cannot stop a
server that does not use it.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from batcher.config.section import nearest
from batcher.errors import PluginError, describe
from batcher.executor import AsyncExecutor, Capabilities, Executor

__all__ = ["GROUP", "executor_names", "find_executor", "is_async", "plugin_of"]

GROUP: Final = "batcher.executors"
"""The entry point group in which a distribution announces its executors."""

_COME_WITH: Final = {"onnxruntime": "plugins/onnxruntime[cpu]"}
"""Executors of this project that are installed on their own: what to install in a checkout."""

_METHODS: Final = ("load", "execute", "close")


def executor_names() -> list[str]:
    """The names that installed distributions claim, sorted; nothing is imported."""
    return sorted(entry_points(group=GROUP).names)


def find_executor(name: str) -> type[Executor] | type[AsyncExecutor]:
    """The executor class that is announced as `name`, imported.

    Raises `PluginError`: no distribution claims the name (with the nearest known one), two claim it
    for different objects, the import fails, or what it imports is not an executor class.
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


def is_async(executor: type) -> bool:
    """Whether this executor class is an `AsyncExecutor`: its methods are coroutine functions."""
    return inspect.iscoroutinefunction(getattr(executor, "execute", None))


def plugin_of(name: str) -> str:
    """How to come by an executor that is not installed, as the end of a sentence."""
    if name in _COME_WITH:
        return f"{name} is a plugin of its own: pip install '{_COME_WITH[name]}' in a checkout"
    return "others come with their plugin"


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
    """What stops `found` from being an executor class; None when nothing does."""
    if not inspect.isclass(found):
        return f"expected a class, got {type(found).__name__}"
    missing = [method for method in _METHODS if not callable(getattr(found, method, None))]
    if missing:
        return f"{found.__name__} has no method {', '.join(missing)}"
    if not isinstance(getattr(found, "capabilities", None), Capabilities):
        return f"{found.__name__}.capabilities must be a class attribute of type Capabilities"
    coroutines = [m for m in _METHODS if inspect.iscoroutinefunction(getattr(found, m))]
    if coroutines and len(coroutines) < len(_METHODS):
        return f"{found.__name__} mixes blocking methods and coroutines ({', '.join(coroutines)})"
    return None
