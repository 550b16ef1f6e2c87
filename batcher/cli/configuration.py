"""From a path on the command line to a configuration that can be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batcher.config import Config, ModelConfig
    from batcher.config.files import Problem
    from batcher.config.section import KeyPath

ConfigPath = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", show_default=False, help="The configuration file (YAML)."),
]


def checked_config(path: Path) -> Config:
    """The configuration, after TLS files, executors and their options were checked.

    Nothing is loaded and no port is opened. Raises ConfigError with every problem found.
    """
    from batcher.config import load_config

    config = load_config(path)
    refuse(config, path, problems_before_loading(config, thorough=False))
    return config


def refuse(config: Config, path: Path, problems: Sequence[Problem]) -> None:
    """Raise ConfigError if there are problems."""
    from batcher.config import located
    from batcher.errors import ConfigError

    if problems:
        raise ConfigError(located(config, problems), source=str(path))


def problems_before_loading(config: Config, *, thorough: bool) -> list[Problem]:
    """Every problem with what the configuration names that can be found without loading a model.

    `thorough` also checks what may still be created before the server starts: folders, model files,
    plugins that have to be importable.
    """
    from batcher.config import file_problems, folder_problems

    problems = list(file_problems(config)) or _tls_problems(config)
    if config.tracing is not None:
        from batcher.telemetry.tracing import missing_packages

        missing = missing_packages()
        problems += [(("tracing",), missing)] if missing else []
    if thorough:
        problems += folder_problems(config)
    for place, model in enumerate(config.models):
        at = ("models", place)
        problems += executor_problems(at, config.base_dir, model, thorough=thorough)
        problems += _own_addresses(config, (*at, "options"), model.options)
    if config.model_repository is not None:
        options = config.model_repository.defaults.get("options") or {}
        problems += _own_addresses(config, ("model_repository", "defaults", "options"), options)
    return problems


def _own_addresses(config: Config, at: KeyPath, options: Mapping[str, Any]) -> Iterator[Problem]:
    """Options by which an executor would send batches to this server itself."""
    from batcher.config.addresses import reaches

    server = config.server
    listeners = [("server.grpc", each) for each in server.grpc]
    listeners += [("server.admin", each) for each in server.admin]
    if server.http is not None:
        listeners.append(("server.http", server.http))
    for key in ("url", "management_url"):
        url = options.get(key)
        if not isinstance(url, str):
            continue
        for name, listener in listeners:
            if reaches(listener, url):
                text = f"got {url}, where this server itself listens ({name}); allowed: another address"
                yield (*at, key), text


def _tls_problems(config: Config) -> list[Problem]:
    if config.server.tls is None:
        return []
    from batcher.errors import StartupError
    from batcher.server.tls import Certificates

    try:
        Certificates(config.server.tls)
    except StartupError as error:
        return [(("server", "tls"), str(error).removeprefix("server.tls: "))]
    return []


def executor_problems(
    at: KeyPath, base_dir: Path, model: ModelConfig, *, thorough: bool
) -> list[Problem]:
    """What is wrong with the executor of a model, which stands `at` a path, and with its options.

    Relative paths in options start at `base_dir`.
    """
    from batcher.config import nearest
    from batcher.errors import PluginError
    from batcher.executor import option_problems, options_model
    from batcher.plugins import executor_names, find_executor, plugin_of

    known = executor_names()
    if model.executor not in known:
        hint = nearest(model.executor, known)
        guess = f" (did you mean {hint}?)" if hint else ""
        allowed = f"{', '.join(known)}{guess}; {plugin_of(model.executor)}"
        return [((*at, "executor"), f'got "{model.executor}"; allowed: {allowed}')]
    try:
        executor = find_executor(model.executor)
    except PluginError as error:
        return [((*at, "executor"), str(error))] if thorough else []
    found = options_model(executor)
    if found is not None:
        problems = option_problems(found, model.options, base_dir, files=thorough)
        if problems:
            return [((*at, "options", *path), text) for path, text in problems]
    return _serving_problems(at, base_dir, model) if thorough else []


def _serving_problems(at: KeyPath, base_dir: Path, model: ModelConfig) -> list[Problem]:
    """Why the executor does not know how to serve the model: it imports what its options name.

    Also what its class declares and the model's other keys contradict.
    """
    from batcher.errors import StartupError
    from batcher.executor.classes import class_problems
    from batcher.model_builder import serving_executor

    try:
        kind = serving_executor(model, base_dir)
    except StartupError as error:
        return [((*at, "options"), str(error).removeprefix(f"model {model.name!r}: "))]
    found = class_problems(kind, kind.capabilities, model.isolation, model.max_in_flight)
    return [((*at, key), text) for key, text in found]
