"""`batcher scaler`: answer KEDA for fleets of servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.exits import reported
from batcher.cli.serve import LogFormat, LogLevel

if TYPE_CHECKING:
    from batcher.scaler.config import ScalerConfig
    from batcher.scaler.discovery import ReplicasConfig

EPILOG = """
A configuration with all that is needed:

    listen: {grpc: ["0.0.0.0:9001"], http: "0.0.0.0:9002"}
    fleets:
      - name: ranker
        replicas: {dns: "ranker-headless.ml.svc.cluster.local:8001"}

And the trigger of a ScaledObject that asks for it:

    type: external-push
    metadata:
      scalerAddress: batcher-scaler.ml:9001
      fleet: ranker
      metric: desired_ratio
      target: "0.8"

Exit codes: 0 after SIGTERM or Ctrl-C; 1 when it could not start; 2 when the configuration is wrong.

Examples:

- `batcher scaler scaler.yaml` answers KEDA until SIGTERM.

- `batcher scaler --check scaler.yaml` validates the file, and the certificates that it names.

- `curl -s http://127.0.0.1:9002/v1/fleets` shows what it sees of each fleet, and why.

- `curl -X POST http://127.0.0.1:9002/v1/fleets/ranker/wake` has a fleet started that is at zero.

- `batcher schema --scaler > scaler.schema.json` writes the JSON Schema of the file, for editors.
"""


def scaler(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            show_default=False,
            help="The configuration file of the scaler (YAML).",
        ),
    ],
    *,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Validate the file, summarize it and exit. Opens no port, asks no one."
        ),
    ] = False,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            help="The lowest level that is logged, on standard error. `debug` adds tracebacks to errors."
        ),
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat, typer.Option(help="`text` for people; `json` for one object a line.")
    ] = LogFormat.TEXT,
) -> None:
    """Serve KEDA's external scaler protocol for fleets of batcher servers.

    It asks each replica of a fleet for its load report once a second, and answers KEDA with the load of
    the fleet in replicas. A replica that does not answer counts as unknown, never as idle. docs/scaler.md
    has the metrics, what is idle, and how a fleet at zero is woken.
    """
    with reported(with_traceback=log_level is LogLevel.DEBUG):
        from batcher.telemetry.logs import configure_logging

        configure_logging(log_level.value, log_format.value)
        settings = _checked(config)
        if check:
            for line in _summary(settings):
                typer.echo(line)
            typer.echo(f"{config}: ok")
            return

        import uvloop

        from batcher.process import scale

        uvloop.run(scale(settings))


def _checked(path: Path) -> ScalerConfig:
    """The configuration, after what it names was checked. Raises `ConfigError` with every problem."""
    from batcher.config.files import located_in
    from batcher.errors import ConfigError
    from batcher.scaler.config import load_scaler_config
    from batcher.scaler.files import file_problems

    settings = load_scaler_config(path)
    problems = list(file_problems(settings))
    if problems:
        raise ConfigError(located_in(settings.text, problems), source=str(path))
    return settings


def _where(replicas: ReplicasConfig) -> str:
    if replicas.dns is not None:
        return f"the addresses of {replicas.dns}"
    if replicas.endpoint_slices is not None:
        of = replicas.endpoint_slices
        namespace = "" if of.namespace is None else f"{of.namespace}/"
        return f"the EndpointSlices of {namespace}{of.service}, port {of.port}"
    count = len(replicas.static or ())
    return f"{count} addresses" if count > 1 else "one address"


def _summary(config: ScalerConfig) -> list[str]:
    from batcher.config import format_duration

    listen = config.listen
    secured = "" if listen.tls is None else " (mutual TLS)" if listen.tls.client_ca else " (TLS)"
    lines = [f"grpc:  {', '.join(listen.grpc)}{secured}"]
    if listen.http is not None:
        lines.append(f"http:  {listen.http}")
    for fleet in config.fleets:
        tls = "" if fleet.tls is None else " by mutual TLS" if fleet.tls.cert else " by TLS"
        token = "" if fleet.wake_token is None else " with a token"
        wake = f"{format_duration(fleet.wake_for)}{token}" if fleet.wake_for else "off"
        lines.append(
            f"fleet {fleet.name}: {_where(fleet.replicas)}, asked each"
            f" {format_duration(fleet.poll.interval)}{tls}; idle after"
            f" {format_duration(fleet.idle_after)}; waking: {wake}"
        )
    return lines
