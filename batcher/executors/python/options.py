"""The options of a model of the executor `python`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, StrictBool

from batcher.executor import FilePath, Options
from batcher.executors.remote.tensor_options import TensorOption

__all__ = ["PythonOptions"]

_TARGET: Final = re.compile(r"(?P<place>[^:]+):(?P<names>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _target(text: str) -> str:
    match = _TARGET.fullmatch(text)
    if match is None or not (_is_file(match["place"]) or _MODULE.fullmatch(match["place"])):
        raise ValueError("module:name or file.py:name, where name is a function or a class")
    return text


def _is_file(place: str) -> bool:
    return place.endswith(".py")


Name = Annotated[str, Field(strict=True, min_length=1)]


class PythonOptions(Options):
    """Which function or class, and what it takes if its annotations do not say."""

    target: Annotated[str, Field(strict=True), AfterValidator(_target)]
    """The function, class or method: `module:name` or `file.py:name`. Of a class an object is made, and
    its method `__call__` called, or another one: `module:Class.predict`."""
    args: dict[str, Any] = Field(default_factory=dict)
    """The arguments that a class is made with, by name."""
    inputs: tuple[TensorOption, ...] = ()
    """The inputs, instead of those of the annotations. Each is an argument of its name."""
    outputs: tuple[TensorOption, ...] = ()
    """The outputs, instead of those of the annotations."""
    parameters: tuple[Name, ...] = ()
    """Request parameters that the function takes as arguments, beside those of the annotations."""
    per_row: StrictBool = False
    """Whether a function is called once for each row. Annotations say it themselves; this is for inputs
    that the configuration declares."""
    python_path: tuple[FilePath, ...] = ()
    """Folders in which modules are looked for, after those of Python itself."""

    @property
    def place(self) -> str:
        """The module, or the path of a file."""
        return self.target.partition(":")[0]

    @property
    def names(self) -> list[str]:
        """The names of a class, its method, or a function: one inside the other."""
        return self.target.partition(":")[2].split(".")

    @property
    def is_file(self) -> bool:
        """Whether `place` is the path of a file."""
        return _is_file(self.place)
