"""Reads and checks `models[].options`, the settings of an executor itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from batcher.config.explain import explain
from batcher.config.section import KeyPath
from batcher.config.section import Section as Options
from batcher.errors import ModelLoadError
from batcher.executor.loading import LoadContext

Problem = tuple[KeyPath, str]
"""The path of a wrong option below `options`, and what is wrong with it."""

OptionsT = TypeVar("OptionsT", bound=Options)


def read_options(context: LoadContext, model: type[OptionsT]) -> OptionsT:
    """Return `context.options` as an object of `model`, your subclass of `Options` (pydantic).

    A field of type `FilePath` is returned relative to `base_dir`, a `Duration` in nanoseconds, a
    `Size` in bytes. Raises `ModelLoadError`, which names the model and, for every wrong or unknown
    option, its name, its value and what is allowed.
    """
    try:
        return model.model_validate(dict(context.options), context={"base_dir": context.base_dir})
    except ValidationError as error:
        problems = [f"{_where(path)}: {text}" for path, text in explain(error, model)]
    raise ModelLoadError(f"model {context.model!r}: {'; '.join(problems)}")


def options_model(executor: type) -> type[Options] | None:
    """Return the executor's class attribute `options` if it is a subclass of `Options`, else None.

    With that attribute, `batcher check` finds wrong options without loading the model.
    """
    model = getattr(executor, "options", None)
    return model if isinstance(model, type) and issubclass(model, Options) else None


def option_problems(
    model: type[Options], options: Mapping[str, Any], base_dir: Path, *, files: bool
) -> list[Problem]:
    """Return what `read_options` would refuse; with `files`, also each `FilePath` that is unreadable."""
    try:
        found = model.model_validate(dict(options), context={"base_dir": base_dir})
    except ValidationError as error:
        return list(explain(error, model))
    return list(_unreadable(found, ())) if files else []


def _unreadable(value: object, path: KeyPath) -> Iterator[Problem]:
    if isinstance(value, Path):
        from batcher.config.files import unreadable  # noqa: PLC0415 - it imports all of the configuration

        problem = unreadable(value)
        if problem:
            yield path, problem
    elif isinstance(value, Options):
        for name in type(value).model_fields:
            yield from _unreadable(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _unreadable(each, (*path, key))
    elif isinstance(value, (tuple, list)):
        for place, each in enumerate(value):
            yield from _unreadable(each, (*path, place))


def _where(path: KeyPath) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return f"option {''.join(steps).removeprefix('.')}" if path else "options"
