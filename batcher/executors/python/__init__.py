"""The executor `python`: calls a function or an object that a configuration names.

What users import from here describes their functions: `Rows`, `Row`, `Shared` and `Parameter` in
annotations, and `RowError` for wrong values. The guide is docs/python.md.

`options` are those of a model, `target` finds what they name, `interface` reads its inputs and
outputs, `arguments` makes the arguments of a batch and `answers` the outputs of what is returned.
`model` puts these together, and `executor` has one class for blocking code and one for coroutines.
"""

from batcher.executors.python.annotations import Parameter, Row, RowError, Rows, Shared
from batcher.executors.python.executor import AsyncPythonExecutor, PythonExecutor

__all__ = [
    "AsyncPythonExecutor",
    "Parameter",
    "PythonExecutor",
    "Row",
    "RowError",
    "Rows",
    "Shared",
]
