"""The command `batcher`: its own options, and the list of its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from batcher import __version__
from batcher.cli import (
    buckets,
    check,
    profile,
    replay,
    scaler,
    schema,
    serve,
    simulate,
    suggest,
    top,
    tune,
)
from batcher.cli.renamed import SimulateCommand

EXAMPLES = """
Examples:

- `batcher check config.yaml` validates a configuration and summarizes it.

- `batcher serve config.yaml` serves its models until SIGTERM or Ctrl-C.

- `batcher top` shows what a running server does, once a second.

- `batcher simulate config.yaml --arrivals poisson --load 0.8` predicts latency and goodput at 80 % of
  the capacity, without loading a model.

- `batcher suggest config.yaml --rate 800` measures the model and suggests a target, a batch size and a
  limit for 800 requests a second.

- `batcher replay LOG --set batching.target_p99=40ms` shows what another target would have done with
  recorded traffic.

- `batcher scaler scaler.yaml` tells KEDA how many replicas of a deployment are needed.

- `batcher COMMAND --help` shows the options of a command, with examples.
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
    """Batch gRPC inference requests within a latency target.

    One YAML file describes the server: `batcher schema` prints what it may contain.
    """


app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=check.EPILOG)(check.check)
app.command(epilog=top.EPILOG)(top.top)
app.command(epilog=simulate.EPILOG, cls=SimulateCommand)(simulate.simulate)
app.command(epilog=replay.EPILOG)(replay.replay)
app.command(epilog=profile.EPILOG)(profile.profile)
app.command(epilog=suggest.EPILOG)(suggest.suggest)
app.command(epilog=buckets.EPILOG)(buckets.buckets)
app.command(epilog=tune.EPILOG)(tune.tune)
app.command(epilog=scaler.EPILOG)(scaler.scaler)
app.command(epilog=schema.EPILOG)(schema.schema)
