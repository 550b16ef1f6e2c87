"""Finds the function or class that a model's options name.

A module is imported as Python does it, once in the life of the process. A file is executed once, and
again when it has changed and a model is loaded from it again.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from batcher.config.section import nearest
from batcher.errors import ModelLoadError, describe
from batcher.executor import LoadContext
from batcher.executors.python.options import PythonOptions

__all__ = ["Target", "explained", "find_target"]

_IMPORTING: Final = threading.Lock()
_FILES: Final[dict[Path, tuple[tuple[int, int], ModuleType]]] = {}
"""File -> when it was last changed and its size, and the module that was made of it."""
_NUMBERS: Final = itertools.count()
"""Files of one name in several folders, and of several contents, are modules of their own."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is called for a batch or a row: a function, or a method of an object that is made first."""

    name: str
    """As messages name it: `score`, or `Classifier.predict`."""
    call: Any
    """The function; of a class the method, which takes the object first (`bound` says otherwise)."""
    made_of: type | None = None
    """The class of which an object is made; None for a function."""
    method: str = "__call__"
    """The name of the method that is called."""
    bound: bool = True
    """Whether `call` takes no object: a function, or a static or class method."""


def find_target(context: LoadContext, options: PythonOptions) -> Target:
    """Import what `target` names, which executes the module.

    Raises `ModelLoadError`, which names the option and the module, file or name that is missing, or
    what its import raised and where.
    """
    with _IMPORTING:
        _extend_path(options.python_path)
        module = (
            _file(context, options.place) if options.is_file else _module(context, options.place)
        )
    value: Any = module
    owner: type | None = None
    for place, name in enumerate(options.names):
        if owner is not None and not inspect.isclass(value):
            raise _wrong(context, f"{options.target}: a method has no {name!r} inside")
        if inspect.isclass(value):
            owner = value
        value = _attribute(context, options, value, place)
    if inspect.isclass(value):
        return _of_class(context, options, value, "__call__")
    if owner is not None:
        return _of_class(context, options, owner, options.names[-1])
    if not callable(value):
        kind = type(value).__name__
        raise _wrong(context, f"{options.target} is of type {kind}; allowed: a function or a class")
    if options.args:
        raise ModelLoadError(
            f"model {context.model!r}: option args: {options.target} is no class; allowed: none, only a"
            " class is made with arguments"
        )
    return Target(options.names[-1], value)


def explained(error: BaseException) -> str:
    """An error of user code, and where its code raised it: `ValueError: no rules (rules.py, line 7)`."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return describe(error)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _is_ours(frame.filename)]
    if not theirs:
        return describe(error)
    last = theirs[-1]
    return f"{describe(error)} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


def _is_ours(filename: str) -> bool:
    return filename.startswith("<frozen") or Path(filename).parent == Path(__file__).parent


def _extend_path(folders: tuple[Path, ...]) -> None:
    for folder in folders:
        entry = str(folder.absolute())
        if entry not in sys.path:
            sys.path.append(entry)


def _module(context: LoadContext, name: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise _wrong(
                context,
                f"there is no module {missing!r}; allowed: a module that is installed, or lies in a"
                " folder of option python_path, or a file: folder/file.py:name",
            ) from error
        raise _failed(context, name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(context, name, error) from error


def _file(context: LoadContext, place: str) -> ModuleType:
    """The module of a file. Modules beside the file can be imported by it."""
    path = (context.base_dir / place).absolute()
    try:
        status = path.stat()
        source = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise _wrong(context, f"cannot read the file {path}: {reason}") from None
    stamp = status.st_mtime_ns, status.st_size
    known = _FILES.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    _extend_path((path.parent,))
    name = f"batcher_python_file_{next(_NUMBERS)}_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses, enumerations and annotations look their module up.
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - what the option asks for
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(context, str(path), error) from error
    _FILES[path] = stamp, module
    return module


def _attribute(context: LoadContext, options: PythonOptions, value: Any, place: int) -> Any:
    names = options.names
    try:
        return getattr(value, names[place])
    except AttributeError:
        hint = nearest(names[place], [name for name in dir(value) if not name.startswith("_")])
        guess = f" (did you mean {hint!r}?)" if hint else ""
        where = ".".join([options.place, *names[:place]]) if place else options.place
        raise _wrong(context, f"{where} has no {names[place]!r}{guess}") from None


def _of_class(context: LoadContext, options: PythonOptions, made_of: type, method: str) -> Target:
    static = inspect.getattr_static(made_of, method, None)
    if method == "__call__" and not any("__call__" in vars(base) for base in made_of.__mro__):
        raise _wrong(
            context,
            f"the class {made_of.__name__} has no method __call__; allowed: a class that has one, or a"
            f" method by name: {options.target}.method",
        )
    call = getattr(made_of, method) if method != "__call__" else static
    if not callable(call):
        kind = type(call).__name__
        raise _wrong(context, f"{options.target} is of type {kind}; allowed: a method")
    name = made_of.__name__ if method == "__call__" else f"{made_of.__name__}.{method}"
    return Target(name, call, made_of, method, isinstance(static, (staticmethod, classmethod)))


def _wrong(context: LoadContext, text: str) -> ModelLoadError:
    return ModelLoadError(f"model {context.model!r}: option target: {text}")


def _failed(context: LoadContext, what: str, error: BaseException) -> ModelLoadError:
    return _wrong(context, f"the import of {what} failed: {explained(error)}")
