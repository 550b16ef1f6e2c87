"""Finds and calls the Python code that makes a model: `module:name` or `file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from batcher.errors import ModelLoadError, OutOfMemory, describe
from batcher_torch.files import read_state_dict
from batcher_torch.messages import is_out_of_memory, one_line
from batcher_torch.options import TorchOptions

_importing: Final = threading.Lock()


def make(options: TorchOptions, base_dir: Path, label: str) -> Any:
    """What the factory returns, with the weights of option `weights`, for inference.

    Raises `ModelLoadError`, which names the option and the reason.
    """
    text = str(options.factory)
    where = f"{label}: option factory: {text}"
    factory = _find(text, base_dir, options.python_path, where)
    try:
        made = factory(**options.args)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{where}: {one_line(error)}") from error
        raise ModelLoadError(f"{where} failed: {describe(error)}") from error
    if inspect.iscoroutine(made):
        made.close()
        raise ModelLoadError(f"{where} is a coroutine function; allowed: an ordinary function")
    if not callable(made):
        raise ModelLoadError(
            f"{where} returned an object of type {type(made).__name__}; allowed: a module, or a "
            "callable that takes and returns tensors"
        )
    if options.weights is not None:
        _fill(made, options, label)
    if isinstance(made, torch.nn.Module):
        made.eval()
    return made


def _find(text: str, base_dir: Path, folders: Sequence[Path], where: str) -> Any:
    place, _, names = text.partition(":")
    try:
        with _importing:
            found: Any = (
                _run_file(base_dir / place) if place.endswith(".py") else _import(place, folders)
            )
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == place
        hint = ": a folder that has it belongs in option python_path" if missing else ""
        raise ModelLoadError(f"{where} cannot be imported: {describe(error)}{hint}") from error
    for name in names.split("."):
        if not hasattr(found, name):
            raise ModelLoadError(f"{where}: {place} has no {name!r}")
        found = getattr(found, name)
    if not callable(found):
        raise ModelLoadError(
            f"{where} is of type {type(found).__name__}; allowed: a function or a class"
        )
    return found


def _import(name: str, folders: Sequence[Path]) -> Any:
    sys.path.extend(path for path in map(os.path.abspath, folders) if path not in sys.path)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def _run_file(path: Path) -> Any:
    """The module of a file, executed anew: a model that is loaded again sees changes of the file."""
    name = f"_batcher_torch_{path.stem}_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and compiled code look it up there
    spec.loader.exec_module(module)
    return module


def _fill(made: Any, options: TorchOptions, label: str) -> None:
    where = f"{label}: option weights"
    path = Path(str(options.weights))
    if not isinstance(made, torch.nn.Module):
        raise ModelLoadError(
            f"{where}: {options.factory} returned an object of type {type(made).__name__}; allowed: "
            "a module"
        )
    state = read_state_dict(path, where, allow_pickle=options.allow_pickle)
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        raise ModelLoadError(
            f"{where}: {path} does not fit the module: {one_line(error)}"
        ) from error
