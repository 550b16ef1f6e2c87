"""`batcher serve`: run until told to stop."""

from __future__ import annotations

import contextlib
import faulthandler
from enum import StrEnum
from typing import Annotated

import typer

from batcher.cli.configuration import ConfigPath, checked_config
from batcher.cli.exits import reported

EPILOG = """
Exit codes: 0 after a clean drain, 2 when the configuration is wrong, 1 when it could not start or
not drain in time.

Examples:

- `batcher serve config.yaml`

- `batcher serve config.yaml --log-format json --log-level warning`

- `kill -HUP PID` has the file read again; so does a change of it. What cannot change while the
  server runs is refused, and says so in the log.

- A crash in native code (a driver, a runtime) leaves where each thread was on standard error.

- `batcher check config.yaml` first says what is wrong without starting anything.
"""


class LogLevel(StrEnum):
    """From which level on logs are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line looks."""

    TEXT = "text"
    JSON = "json"


def _leave_a_trace() -> None:
    """Have a crash in native code write where every thread was, on standard error."""
    # There is none to write to where the caller gave us something else in its place.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        faulthandler.enable()


def serve(
    config: ConfigPath,
    log_level: Annotated[
        LogLevel,
        typer.Option(help="What to log on standard error; `debug` adds tracebacks to errors."),
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat, typer.Option(help="`text` for people, `json` for one object a line.")
    ] = LogFormat.TEXT,
) -> None:
    """Serve the models of a configuration until SIGTERM or Ctrl-C.

    Prints one line on standard output when it is ready. The first signal drains: readiness says no,
    new requests are refused (after SIGTERM not before `server.drain_delay`), and accepted ones are
    answered, for at most `server.drain_timeout`. A second one ends at once.
    """
    _leave_a_trace()
    with reported(with_traceback=log_level is LogLevel.DEBUG):
        from batcher.telemetry.logs import configure_logging

        configure_logging(log_level.value, log_format.value)
        settings = checked_config(config)

        import uvloop

        from batcher.app import serve as serve_until_stopped
        from batcher.cli.files import allow_files

        allow_files(settings)
        uvloop.run(serve_until_stopped(settings, config))
