"""Finds executor classes by name, among the entry points of the group `batcher.executors`.

A plugin is imported only when a model uses it, so that a broken distribution cannot stop a server
that does not need it.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from batcher.config.section import nearest
from batcher.errors import PluginError, describe
from batcher.executor import AsyncExecutor, Executor
from batcher.executor.classes import ExecutorPath, for_model, not_an_executor

__all__ = [
    "GROUP",
    "executor_names",
    "find_executor",
    "for_model",
    "is_async",
    "locate_executor",
    "plugin_of",
]

GROUP: Final = "batcher.executors"
"""The entry point group of executor plugins."""

_OWN_PLUGINS: Final = {
    "onnxruntime": "plugins/onnxruntime[cpu]",
    "openvino": "plugins/openvino[openvino]",
    "torch": "plugins/torch[torch]",
}
"""Executors of this project that are plugins -> what to `pip install` in a checkout."""


def executor_names() -> list[str]:
    """The names of the installed executors, sorted. Imports nothing."""
    return sorted(entry_points(group=GROUP).names)


def locate_executor(name: str) -> ExecutorPath:
    """Where the executor class with the entry point `name` is; imports nothing.

    Raises `PluginError` if the name is unknown, or if two distributions claim it.
    """
    return ExecutorPath(_point(name).value)


def find_executor(name: str) -> type[Executor] | type[AsyncExecutor]:
    """Import and return the executor class with the entry point `name`.

    Raises `PluginError` if the name is unknown (the message has the nearest known one), if two
    distributions claim it, if the import fails, or if it is not an executor class.
    """
    point = _point(name)
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"executor {name!r} ({_claim(point)}) could not be imported: {describe(error)}"
        ) from error
    problem = not_an_executor(found)
    if problem:
        raise PluginError(f"executor {name!r} ({_claim(point)}) is not an executor: {problem}")
    executor: type[Executor] | type[AsyncExecutor] = found
    return executor


def is_async(executor: type) -> bool:
    """Whether an executor class is an `AsyncExecutor` (its methods are coroutine functions)."""
    return inspect.iscoroutinefunction(getattr(executor, "execute", None))


def plugin_of(name: str) -> str:
    """How to install the executor `name`, as the end of a sentence."""
    if name in _OWN_PLUGINS:
        return f"to install it: pip install '{_OWN_PLUGINS[name]}' in a checkout"
    return "install the plugin that has it"


def _point(name: str) -> EntryPoint:
    claims = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not claims:
        raise PluginError(_unknown(name))
    if len(claims) > 1:
        claimants = " and ".join(sorted(_claim(point) for point in claims.values()))
        raise PluginError(f"executor {name!r} is claimed by {claimants}; uninstall all but one")
    (point,) = claims.values()
    return point


def _unknown(name: str) -> str:
    known = executor_names()
    hint = nearest(name, known)
    guess = f" (did you mean {hint!r}?)" if hint else ""
    installed = ", ".join(known) or "none"
    return f"no executor named {name!r}{guess}; installed: {installed}; {plugin_of(name)}"


def _claim(point: EntryPoint) -> str:
    where = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.value}{where}"
