"""What `batcher check` says of a model repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batcher.cli.configuration import executor_problems, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batcher.config import Config
    from batcher.config.files import Problem
    from batcher.lifecycle import WantedModel
    from batcher.lifecycle.repository.described import ModelScan

_AT = ("model_repository", "path")


@dataclass(frozen=True, slots=True)
class CheckedRepository:
    """The models of a repository that can be served, what is wrong with others, and what has no effect."""

    wanted: tuple[WantedModel, ...] = ()
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()


def checked_repository(config: Config) -> CheckedRepository:
    """Scan every model of the repository, if there is one; load nothing."""
    from batcher.lifecycle.repository.directory import Directory

    section = config.model_repository
    if section is None:
        return CheckedRepository()
    scan = Directory(section.path, section.defaults).scan()
    if scan.problem:
        return CheckedRepository(problems=((_AT, scan.problem),))
    problems: list[Problem] = []
    taken = {model.name for model in config.models}
    for place, name in enumerate(section.load):
        if name not in scan.models:
            known = ", ".join(scan.models) or "none"
            text = f"got {name}; allowed: a model of {section.path}, which has: {known}"
            problems.append((("model_repository", "load", place), text))
    for name, found in scan.models.items():
        if name in taken:
            problems.append((_AT, f"{name}: a model of that name is in `models`, too; rename one"))
        problems += [(_AT, text) for text in _problems(found)]
    return CheckedRepository(
        tuple(wanted for found in scan.models.values() for wanted in found.wanted),
        tuple(problems),
        tuple(f"{name}: {text}" for name, found in scan.models.items() for text in found.ignored),
    )


def with_repository(config: Config, path: Path) -> Config:
    """The configuration with the models of its repository as models of its own, as far as they are right.

    Raises `ConfigError` if there are none at all.
    """
    if config.model_repository is None:
        return config
    checked = checked_repository(config)
    taken = {model.name for model in config.models}
    models = [each for each in checked.wanted if each.config.name not in taken]
    if not config.models and not models:
        nothing = (_AT, "there is no model that can be served")
        refuse(config, path, [nothing, *checked.problems])
    return config.joined((each.config, each.base_dir) for each in models)


def _problems(found: ModelScan) -> Iterator[str]:
    from batcher.config.section import dotted

    for version, why in found.problems:
        yield f"{found.name}{f' version {version}' if version else ''}: {why}"
    for wanted in found.wanted:
        model = wanted.config
        labels = [path for path in model.label_files().values() if not path.is_file()]
        at = f"{model.name} version {model.version}"
        yield from (f"{at}: the labels {path} are not there" for path in labels)
        for path, why in executor_problems((), wanted.base_dir, model, thorough=True):
            yield f"{at}: {dotted(path)}: {why}"
