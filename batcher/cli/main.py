"""The `batcher` command: what is common to all commands, and the list of them."""

from __future__ import annotations

from typing import Annotated

import typer

from batcher import __version__
from batcher.cli import buckets, check, profile, replay, schema, serve, simulate, tune

EXAMPLES = """
Examples:

- `batcher check config.yaml` says what is wrong with a configuration, or sums it up.

- `batcher serve config.yaml` serves it until SIGTERM or Ctrl-C.

- `batcher simulate config.yaml --arrivals poisson --load 0.8` says what it would do.

- `batcher replay LOG --set batching.target_p99=40ms` says what it would have done.
"""

app = typer.Typer(
    name="batcher",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batcher {__version__}")
        raise typer.Exit


@app.callback(epilog=EXAMPLES)
def _root(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Batches gRPC inference requests inside windows that a latency target bounds."""


app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=check.EPILOG)(check.check)
app.command(epilog=simulate.EPILOG)(simulate.simulate)
app.command(epilog=replay.EPILOG)(replay.replay)
app.command(epilog=profile.EPILOG)(profile.profile)
app.command(epilog=buckets.EPILOG)(buckets.buckets)
app.command(epilog=tune.EPILOG)(tune.tune)
app.command(epilog=schema.EPILOG)(schema.schema)
