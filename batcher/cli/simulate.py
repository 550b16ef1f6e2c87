"""`batcher simulate`: what a configuration would do with some arrivals, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.configuration import ConfigPath
from batcher.cli.exits import reported
from batcher.cli.simulation_options import (
    read,
    read_arrivals,
    read_conditions,
    read_costs,
    read_duration,
    read_rates,
    read_traffic,
)

if TYPE_CHECKING:
    from batcher.simulation.experiment import Cell, Experiment

EPILOG = """
Arrivals: `poisson:RATE`, `gamma:RATE:CV`, `mmpp:RATE:RATIO:SHARE:CYCLE`,
`closed:CALLERS:THINK`, or a file: seconds one a line, or a CSV with a timestamp column.

Exit codes: 0 when it ran, 2 when the configuration, an option or a file is wrong.

Examples:

- `batcher simulate config.yaml --arrivals poisson --load 0.8`: what the configured policy does
  with 80 % of what the device could serve.

- `batcher simulate config.yaml --arrivals gamma:900:3 --policy none --policy fixed:2ms
  --policy greedy --seeds 5`: policies side by side, five runs each.

- `batcher simulate config.yaml --arrivals trace.csv --load 0.5,0.8,1.0 --plot out.png`: a recorded
  trace at three rates, with a picture.

- `batcher profile config.yaml -o profile.json`, then `batcher simulate config.yaml --profile
  profile.json --arrivals poisson:200`: with service times measured on the real executor.
"""

_ARRIVALS = "What arrives"
_TIMES = "What a batch takes"
_LOADS = "Scale the arrivals to this share of capacity; several as `0.5,0.8,1.0`."


def simulate(
    config: ConfigPath,
    *,
    arrivals: Annotated[
        str,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="PROCESS|FILE",
            help="When requests arrive; see below.",
        ),
    ],
    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=_ARRIVALS,
            min=1,
            help="Requests of one run. [default: 30000, or all of a trace]",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="TIME",
            help="End arrivals after this, such as `60s`.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            rich_help_panel=_ARRIVALS,
            help="Scale the arrivals to so many requests a second; several as `800,1200`.",
        ),
    ] = None,
    load: Annotated[
        str | None, typer.Option(metavar="SHARES", rich_help_panel=_ARRIVALS, help=_LOADS)
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_ARRIVALS, min=0, help="Equal seeds give equal runs."
        ),
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_ARRIVALS,
            min=1,
            help="Pool runs of so many seeds, from `--seed` on.",
        ),
    ] = 1,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A policy to compare, repeatable: `configured`, a policy of the configuration"
            " file, or a baseline (see the documentation). [default: configured]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="TIME", help="Replace `target_p99`, such as `50ms`.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="The model that gets the requests, or shares as `a=1,b=4`. [default: all alike]",
            show_default=False,
        ),
    ] = None,
    service_times: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="[MODEL=]FILE",
            help='What batches take, in milliseconds by rows: `{"1": 5.5, "8": 9}`. [default: the'
            " options of the executor `emulated`]",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_TIMES, metavar="FILE", help="The same, as `batcher profile` wrote it."
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="SPREAD",
            help="Random service times: `0.1`, `uniform:0.1`, `lognormal:0.1`.",
        ),
    ] = None,
    lateness: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="TIME",
            help="How late timers fire: mean `50us`, or always `constant:50us`.",
        ),
    ] = None,
    reply: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="TIME",
            help="How long after the one before each answer of a batch leaves, such as `40us`.",
        ),
    ] = None,
    batch_gap: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="TIME",
            help="What a batch takes beyond its execution on an idle instance, such as `400us`;"
            " under a backlog batches are then prefetched.",
        ),
    ] = None,
    slow_spell: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="SPELL",
            help="A slow device, repeatable: `12x@5s-7s`, or `12x@5s-7s@DEVICE`.",
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="TIME",
            help="Callers give up after this; without it, never.",
        ),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold",
            rich_help_panel=_TIMES,
            help="Start without the service times that warm-up measures.",
        ),
    ] = False,
    rows: Annotated[
        str,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="Rows of a request: `1`, or shares as `1=8,4=2`. More than fit a batch are split.",
        ),
    ] = "1",
    tenants: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS, metavar="MIX", help="Who asks: shares as `gold=1,default=4`."
        ),
    ] = None,
    priorities: Annotated[
        str,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="How urgent: shares as `1=1,3=9`; 0: unsaid.",
        ),
    ] = "0",
    optimum: Annotated[
        bool,
        typer.Option(help="Also find out what a scheduler that knows the future would serve."),
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw latency, and over several rates goodput and busy time: `out.png`. Needs the"
            " extra `plot`.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each policy and rate.")
    ] = False,
) -> None:
    """Run the production scheduler on a configuration in virtual time.

    Nothing is loaded and nobody waits: what a batch takes is a function. Policies get the same
    requests, and next to them stands the optimum: the most requests that any schedule could answer
    on time, had it known all arrivals. One model on one device that runs one batch at a time has
    one, if it has a target and requests have one row.
    """
    with reported():
        from batcher.config import load_config
        from batcher.simulation.experiment import Experiment
        from batcher.simulation.policies import parse_policy
        from batcher.simulation.scenario import deployment_of

        settings = load_config(config)
        traffic = read_traffic(settings, model, rows, tenants, priorities)
        deployment = deployment_of(
            settings,
            traffic.models,
            read_costs(service_times or [], profile, noise),
            read_duration("--target", target),
        )
        experiment = Experiment(
            deployment=deployment,
            traffic=traffic,
            arrivals=read_arrivals(arrivals),
            policies=tuple(
                read("--policy", name, parse_policy) for name in policy or ["configured"]
            ),
            rates=read_rates(rate, load, deployment.capacity(traffic)),
            seeds=tuple(range(seed, seed + seeds)),
            requests=requests,
            duration_ns=read_duration("--duration", duration),
            conditions=read_conditions(
                slow_spell or [], lateness, deadline, reply, batch_gap, cold=cold
            ),
        )
        _run(experiment, arrivals, optimum=optimum, json=json, plot=plot)


def _run(
    experiment: Experiment, arrivals: str, *, optimum: bool, json: bool, plot: Path | None
) -> None:
    from batcher.cli.progress import progress
    from batcher.cli.results import print_json, print_table, warn_of_targets
    from batcher.simulation.experiment import cells, optimum_missing
    from batcher.simulation.plot import draw_cells, image_path
    from batcher.simulation.report import summarize

    capacity = experiment.deployment.capacity(experiment.traffic)
    picture = None if plot is None else image_path(plot)
    warn_of_targets(experiment.deployment)
    found: list[Cell] = []
    with progress(experiment.expected()) as told:
        found.extend(cells(experiment, told, optimum=optimum))
    summaries = [summarize(cell, capacity) for cell in found]
    if json:
        print_json(summaries)
    else:
        missing = optimum_missing(experiment) if optimum else "--no-optimum"
        print_table(experiment, arrivals, summaries, missing)
    if picture is not None:
        names = ", ".join(model.name for model in experiment.deployment.models)
        title = f"{names}, {Path(arrivals).name}"
        draw_cells(found, summaries, experiment.deployment, title, picture)
