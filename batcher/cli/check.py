"""`batcher check`: validate a configuration and summarize it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.configuration import ConfigPath, problems_before_loading, refuse
from batcher.cli.exits import reported
from batcher.cli.repository import checked_repository

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

    from batcher.config import Config, ModelConfig, QueueConfig
    from batcher.config.files import Problem
    from batcher.config.section import KeyPath
    from batcher.lifecycle import WantedModel

EPILOG = """
Exit codes: 0 when the configuration is valid; 2 when it is not. Each problem names the key, its line,
the value and what is allowed.

Examples:

- `batcher check config.yaml` checks the file and what it names: TLS files and whether certificate and
  key belong together, executors and their options, model files, the folders of sockets and logs.

- `batcher check --load config.yaml` also loads and warms up every model, as `batcher serve` does. Run it
  on the machine and with the devices that will serve.

- With a `model_repository` every model in its directory is checked, too, and what of a `config.pbtxt`
  has no effect is named.

- `MODEL_DIR=/models batcher check config.yaml` for a file that reads `${MODEL_DIR}`.
"""

_COLUMNS = (
    "model",
    "executor",
    "instances",
    "device",
    "policy",
    "rows",
    "window",
    "target",
    "queue",
)

_PIPE_WIDTH = 160
"""Columns of the table where there is no terminal to fit into."""


def check(
    config: ConfigPath,
    *,
    load: Annotated[
        bool,
        typer.Option(
            "--load",
            help="Also load and warm up every model. Finds what only the model's runtime can tell.",
        ),
    ] = False,
) -> None:
    """Validate a configuration without serving it, and summarize it.

    Opens no port and writes no file. With `--load` it also finds a damaged model file, a device that
    is missing or too small, and batch sizes or padding that the model does not take.
    """
    with reported():
        from rich.console import Console

        from batcher.config import load_config

        settings = load_config(config)
        checked = checked_repository(settings)
        problems = problems_before_loading(settings, thorough=True)
        refuse(settings, config, [*problems, *checked.problems])
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_PIPE_WIDTH)
        for line in _listeners(settings):
            typer.echo(line)
        models = (*settings.models, *(each.config for each in checked.wanted))
        console.print(_models(models))
        for model in models:
            for line in _budget(model):
                typer.echo(line)
        typer.echo(_devices(models, settings))
        for ignored in checked.ignored:
            typer.echo(f"note: {ignored}")
        if load:
            _load(settings, config, checked.wanted)
        typer.echo(f"{config}: ok")


def _load(config: Config, path: Path, repository: Sequence[WantedModel]) -> None:
    """Load the models and print inputs and outputs of each. Raises `ConfigError` with every failed load."""
    import asyncio

    from batcher.cli.hints import lengths_apart
    from batcher.cli.loading import load_models
    from batcher.errors import StartupError

    problems: list[Problem] = []

    models = (*config.models, *(each.config for each in repository))
    names = [f"{model.name}:{model.version}" for model in models]

    def begins(place: int) -> None:
        typer.echo(f"loading {names[place]} with {models[place].executor}", err=True)

    async def load_all() -> None:
        async for place, outcome in load_models(config, begins, repository):
            if isinstance(outcome, StartupError):
                in_file = place < len(config.models)
                at: KeyPath = ("models", place) if in_file else ("model_repository", "path")
                problems.append((at, str(outcome)))
            else:
                typer.echo(f"loaded {names[place]}: {outcome.description}")
                hint = lengths_apart(models[place], outcome.metadata)
                if hint is not None:
                    typer.echo(f"hint for {names[place]}: {hint}")

    try:
        asyncio.run(load_all())
    except StartupError as error:  # what is read before any model is loaded
        problems.append((("models",), str(error)))
    refuse(config, path, problems)


def _listeners(config: Config) -> list[str]:
    server = config.server
    secured = ""
    if server.tls is not None:
        secured = " (mutual TLS)" if server.tls.client_ca else " (TLS)"
    lines = [f"grpc:  {', '.join(server.grpc)}{secured}"]
    if server.http is not None:
        names = " (metrics with Triton's names, too)" if config.metrics.triton_names else ""
        lines.append(f"http:  {server.http}{names}")
    if server.admin:
        lines.append(f"admin: {', '.join(server.admin)}{secured}")
    if config.journal is not None:
        lines.append(f"journal: {config.journal.folder}")
    if config.flight_recorder is not None:
        lines.append(f"flight recorder: {config.flight_recorder.folder}")
    if config.tracing is not None:
        endpoint = config.tracing.endpoint or "where the environment says"
        lines.append(f"traces: {endpoint} ({config.tracing.protocol})")
    return lines


def _models(models: Sequence[ModelConfig]) -> Table:
    from rich import box
    from rich.table import Table

    from batcher.config import format_duration

    table = Table(box=box.SIMPLE_HEAD)
    for heading in _COLUMNS:
        table.add_column(heading, overflow="fold")
    for model in models:
        batching = model.batching
        target = batching.target_p99
        table.add_row(
            f"{model.name}:{model.version}",
            model.executor,
            str(model.instances),
            model.device,
            batching.policy,
            ", ".join(map(str, batching.sizes)) or str(batching.max_batch_size),
            batching.window(),
            "-" if target is None else format_duration(target),
            _queue(model.queue),
        )
    return table


def _budget(model: ModelConfig) -> list[str]:
    """What each hop of a model may take of its target, and what is left; nothing without a budget."""
    from batcher.config import format_duration

    budget, target_ns = model.budget, model.batching.target_p99
    if budget is None or target_ns is None:
        return []
    shares, free = budget.shares(), budget.free()
    said = ", ".join(f"{hop} {format_duration(share_ns)}" for hop, share_ns in shares.items())
    left = f"{format_duration(target_ns - sum(shares.values()))} left"
    if free:
        left += f" for {', '.join(free)}"
    whole = f"{model.name}:{model.version} of {format_duration(target_ns)}"
    return [f"budget: {whole}: {said}; {left}" if said else f"budget: {whole}: {left}"]


def _queue(queue: QueueConfig) -> str:
    from batcher.config import format_duration, format_size

    bounds = [f"{queue.max_requests} requests"]
    if queue.max_rows is not None:
        bounds.append(f"{queue.max_rows} rows")
    if queue.max_bytes is not None:
        bounds.append(format_size(queue.max_bytes))
    if queue.timeout is not None:
        bounds.append(format_duration(queue.timeout))
    return ", ".join(bounds)


def _devices(models: Sequence[ModelConfig], config: Config) -> str:
    from batcher.config import gpus_of, limits_of

    limits, gpus = limits_of(models, config.devices), gpus_of(config.devices)
    said = (
        f"{name} {limit}" + (f" (GPU {gpus[name]})" if name in gpus else "")
        for name, limit in limits.items()
    )
    return f"batches at once: {', '.join(said)}"
