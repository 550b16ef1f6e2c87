"""Errors -> exit codes: 2 for a wrong configuration or other input, 1 for every other error."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from batcher.errors import BatcherError, ConfigError, InputError

FAILED: Final = 1
BAD_CONFIG: Final = 2
"""Also for a wrong use of the command line."""


@contextmanager
def reported(*, with_traceback: bool = False) -> Iterator[None]:
    """Print an error of the block on standard error and end with its exit code.

    Only the message is printed; `with_traceback` adds the traceback. Nothing is printed once standard
    output is closed.
    """
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        # typer ends the process without a message for both.
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(FAILED) from None
    except Exception as error:  # noqa: BLE001 - every error ends as one line and an exit code
        if with_traceback:
            typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        if isinstance(error, BatcherError):
            typer.echo(f"error: {error}", err=True)
        else:
            typer.echo(
                f"unexpected error (a defect of batcher): {type(error).__name__}: {error}", err=True
            )
        wrong_input = isinstance(error, (ConfigError, InputError))
        raise typer.Exit(BAD_CONFIG if wrong_input else FAILED) from None
