"""Makes the executor in the child, and has it served."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import socket
import sys
from typing import Any

from batcher.errors import ModelLoadError, describe
from batcher.executor import LoadContext
from batcher.executor.classes import class_problems, for_model, not_an_executor
from batcher.executors.isolated.arena import Mapped
from batcher.executors.isolated.connection import Connection
from batcher.executors.isolated.messages import HELLO, VERSION
from batcher.executors.isolated.outcomes import not_loaded
from batcher.executors.isolated.values import plain, unpacked_context


def serve(end: socket.socket, arena_fd: int) -> None:
    """Serve until the server says CLOSE, or until the executor could not be loaded."""
    connection = Connection(end)
    mapped = Mapped(arena_fd)
    os.close(arena_fd)
    _, path, level, most, pipelining, packed = connection.next()
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    context = unpacked_context(packed)
    try:
        executor = _make(path, context, most)
    except BaseException as error:  # noqa: BLE001 - whatever a plugin's import and its class raise
        connection.send(not_loaded(context, error))
        return
    is_async = inspect.iscoroutinefunction(executor.execute)
    asks = callable(getattr(executor, "healthy", None))
    watches = is_async and inspect.iscoroutinefunction(getattr(executor, "watch", None))
    connection.send([HELLO, VERSION, plain(executor.capabilities), is_async, asks, watches])
    if is_async:
        from batcher.executors.isolated.coroutines import serve_coroutines  # noqa: PLC0415 - asyncio takes a tenth of the start of a child that needs none

        serve_coroutines(executor, context, connection, mapped)
    else:
        from batcher.executors.isolated.blocking import serve_blocking  # noqa: PLC0415 - as above

        serve_blocking(executor, context, connection, mapped, pipelining=pipelining)


def _make(path: str, context: LoadContext, max_in_flight: int) -> Any:
    """Import the class `module:Class` and make an object of what serves the model."""
    module, _, names = path.partition(":")
    model = f"model {context.model!r}"
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"{model}: its executor {path} could not be imported: {describe(error)}"
        ) from error
    problem = not_an_executor(found)
    if problem:
        raise ModelLoadError(f"{model}: {path} is not an executor: {problem}")
    chosen = for_model(found, context)
    problems = class_problems(chosen, chosen.capabilities, "process", max_in_flight)
    wrong = [f"{key}: {text}" for key, text in problems]
    if wrong:
        raise ModelLoadError(f"{model}: {'; '.join(wrong)}")
    return chosen()
