"""`batcher serve`: serve the models of a configuration file."""

from __future__ import annotations

import contextlib
import faulthandler
from enum import StrEnum
from typing import Annotated

import typer

from batcher.cli.configuration import ConfigPath, checked_config
from batcher.cli.exits import reported

EPILOG = """
Exit codes: 0 after a shutdown in which every accepted request was answered; 1 when the server could
not start, or could not answer them within `server.drain_timeout`; 2 when the configuration is wrong.

Signals:

- SIGTERM, SIGINT (Ctrl-C): drain and stop, as above. SIGTERM waits for `server.drain_delay` first, so
  that a load balancer can take the server out; SIGINT does not.

- SIGHUP: read the configuration file again. Settings that can change while the server runs are applied;
  others are refused, and the log says which.

- SIGUSR2: write a flight record, where `flight_recorder` is configured.

Examples:

- `batcher serve config.yaml`

- `batcher serve config.yaml --log-format json --log-level warning`

- `batcher check config.yaml && batcher serve config.yaml`
"""


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


def _dump_stacks_on_a_crash() -> None:
    """Have a crash in native code (a driver, a runtime) write the stack of each thread to standard error."""
    # Where standard error is no file, as under some test runners, there is nothing to write to.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        faulthandler.enable()


def serve(
    config: ConfigPath,
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
    """Serve the models of a configuration until SIGTERM or Ctrl-C.

    Prints one line on standard output when every model is loaded and warmed up. The first signal
    drains: the server reports that it is not ready; after SIGTERM it still serves new requests for
    `server.drain_delay`. Then it refuses new requests, answers the accepted ones for at most
    `server.drain_timeout`, and ends. A second signal ends it at once.
    """
    _dump_stacks_on_a_crash()
    with reported(with_traceback=log_level is LogLevel.DEBUG):
        from batcher.telemetry.logs import configure_logging

        configure_logging(log_level.value, log_format.value)
        settings = checked_config(config)

        import uvloop

        from batcher.cli.files import allow_files
        from batcher.process import serve as serve_until_stopped

        allow_files(settings)
        uvloop.run(serve_until_stopped(settings, config))
