"""Modules that tests write, and executors that are loaded from them."""

import asyncio
import textwrap

import pytest

from batcher import plugins
from batcher.executor import Batch, LoadContext
from batcher.executors.python import PythonExecutor

HEAD = """
import asyncio, os, sys
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypedDict
import numpy as np
from batcher.executor import Batch, BatchResult, ExecutionError, LoadContext
from batcher.executors.python import Parameter, Row, RowError, Rows, Shared
"""


class Loaded:
    """A loaded executor, blocking or not."""

    def __init__(self, executor, context, runner):
        self.executor = executor
        self._runner = runner
        self.metadata = self._call(executor.load(context))

    def _call(self, outcome):
        return self._runner.run(outcome) if asyncio.iscoroutine(outcome) else outcome

    def run(self, inputs, rows=None, **fields):
        rows = len(next(iter(inputs.values()))) if rows is None else rows
        return self._call(self.executor.execute(Batch(inputs, rows, **fields)))

    def close(self):
        return self._call(self.executor.close())


@pytest.fixture
def write(tmp_path):
    """Writes a module: `write(source, name="given.py")` -> its path."""

    def write(source, name="given.py"):
        path = tmp_path / name
        path.write_text(HEAD + textwrap.dedent(source))
        return path

    return write


@pytest.fixture
def context(tmp_path):
    def context(*, max_batch_size=8, batched=None, **options):
        given = max_batch_size, options, tmp_path, batched or {}
        return LoadContext("m", "1", 0, "cpu", *given)

    return context


@pytest.fixture
def load(write, context):
    """Loads a function named `f`, or what `target` says, of a source."""
    with asyncio.Runner() as runner:

        def load(source, target="f", **options):
            write(source)
            given = context(target=f"given.py:{target}", **options)
            return Loaded(plugins.for_model(PythonExecutor, given)(), given, runner)

        yield load
