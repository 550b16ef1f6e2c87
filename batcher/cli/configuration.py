"""The one way from the path on the command line to a configuration that could be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from batcher.config import Config

ConfigPath = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", show_default=False, help="The configuration file (YAML)."),
]


def checked_config(path: Path) -> Config:
    """The configuration, its TLS files and its executors' names looked up.

    Nothing is loaded and nothing listens. Raises ConfigError with every problem found.
    """
    from batcher.config import file_problems, load_config
    from batcher.errors import ConfigError

    config = load_config(path)
    problems = [*file_problems(config), *_executor_problems(config)]
    if problems:
        raise ConfigError(problems, source=str(path))
    return config


def _executor_problems(config: Config) -> list[str]:
    from batcher.config import nearest
    from batcher.plugins import executor_names

    known = executor_names()
    problems = []
    for place, model in enumerate(config.models):
        if model.executor not in known:
            hint = nearest(model.executor, known)
            guess = f" (did you mean {hint}?)" if hint else ""
            problems.append(
                f'models[{place}].executor: got "{model.executor}"; '
                f"allowed: {', '.join(known)}{guess}; others come with their plugin"
            )
    return problems
