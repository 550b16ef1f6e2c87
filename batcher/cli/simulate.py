"""`batcher simulate`: predict what a configuration does with some arrivals, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli import autoscale_options as fleet_options
from batcher.cli.configuration import ConfigPath
from batcher.cli.exits import reported
from batcher.cli.repository import with_repository
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
    from batcher.simulation.compare.experiment import Cell, Experiment

_EPILOG = """
Arrivals, with RATE in requests a second (what follows the first colon may be left out):

- `poisson:RATE`: independent requests.

- `gamma:RATE:CV`: bursts; the standard deviation of the gaps between requests is CV times their mean.

- `mmpp:RATE:RATIO:SHARE:CYCLE`: bursts of RATIO times the calm rate, in SHARE of the time; a calm and a
  burst together last CYCLE on average.

- `closed:CALLERS:THINK`: so many callers; each waits for its answer, then for THINK, and asks again.

- `day:PEAK:LENGTH`: a synthetic day with a slow wave, bursts and one step; PEAK is the rate at noon.

- a file: arrival times in seconds, one a line, or a CSV with a timestamp column.

Policies: `configured`, those of the configuration file (`adaptive`, `fixed`, `fixed:2ms`, `none`),
`greedy` (a batch of all that waits, whenever an instance is free), and the baselines `lazy-drop`,
`nexus`, `nexus:8`, `defer`, `full-clear`, `roll-out` and `bento`, which docs/simulator.md explains.

TIME is a number with a unit: `50us`, `1.5ms`, `2s`. MIX is one value, or values with shares:
`--rows 1=8,4=2` makes one request in five 4 rows long.

{fleet}
Exit codes: 0 when it ran; 2 when the configuration, an option or a file is wrong.

Examples:

- `batcher simulate config.yaml --arrivals poisson --load 0.8`: the configured policy at 80 % of the
  capacity of the device.

- `batcher simulate config.yaml --arrivals gamma:900:3 --policy none --policy fixed:2ms
  --policy greedy --seeds 5`: three policies side by side, five runs each.

- `batcher simulate config.yaml --arrivals trace.csv --load 0.5,0.8,1.0 --plot out.png`: a recorded
  trace at three rates, with a plot.

- `batcher profile config.yaml -o profile.json`, then `batcher simulate config.yaml --profile
  profile.json --arrivals poisson:200`: with service times measured on the real executor.

- `batcher simulate config.yaml --autoscale --arrivals trace.csv --multiply 8 --replicas 1-30
  --plot fronts.png`: which signal to scale a fleet on.
"""
EPILOG = _EPILOG.replace("{fleet}", fleet_options.EPILOG)

_ARRIVALS = "Arrivals"
_TIMES = "Service times and other times"
_LOADS = "Scale the arrivals to this share of the capacity; several as `0.5,0.8,1.0`."


def simulate(
    context: typer.Context,
    config: ConfigPath,
    *,
    arrivals: Annotated[
        str,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="PROCESS|FILE",
            help="An arrival process or a file of arrival times: see below.",
        ),
    ],
    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=_ARRIVALS,
            min=1,
            help="Number of requests in a run. [default: 30000, or the whole trace]",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="TIME",
            help="No arrivals after this time, such as `60s`.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            rich_help_panel=_ARRIVALS,
            help="Scale the arrivals to this many requests a second; several as `800,1200`.",
        ),
    ] = None,
    load: Annotated[
        str | None, typer.Option(metavar="SHARES", rich_help_panel=_ARRIVALS, help=_LOADS)
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_ARRIVALS,
            min=0,
            help="Random seed: equal seeds, equal runs.",
        ),
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_ARRIVALS,
            min=1,
            help="Pool the results of this many runs, with seeds from `--seed` on.",
        ),
    ] = 1,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A policy to compare: see below. Repeatable. [default: configured]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Use this latency target in place of `target_p99`, such as `50ms`."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="The model that gets the requests, or shares as `a=1,b=4`. [default: equal shares]",
            show_default=False,
        ),
    ] = None,
    service_times: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="[MODEL=]FILE",
            help="A JSON file with the milliseconds that a batch takes, by rows:"
            ' `{"1": 5.5, "8": 9}`. [default: the options of the executor `emulated`]',
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="FILE",
            help="Service times measured by `batcher profile`.",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="SPREAD",
            help="Random service times: `0.1` or `uniform:0.1` within 10 % around the mean, or `lognormal:0.1`.",
        ),
    ] = None,
    timer_delay: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="TIME",
            help="How late timers fire: `50us` on average (exponential), or always `constant:50us`.",
        ),
    ] = None,
    reply_time: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="TIME",
            help="Time that the server needs to send one answer, such as `40us`: the answers of a batch"
            " leave one after the other.",
        ),
    ] = None,
    batch_gap: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="TIME",
            help="Extra time of a batch on an idle instance, such as `400us`: half before it executes,"
            " half after. Under a backlog the next batch is prefetched, which saves it.",
        ),
    ] = None,
    slowdown: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_TIMES,
            metavar="FACTORx@FROM-TO",
            help="Batches that start in this period take FACTOR times as long: `12x@5s-7s`, or on one"
            " device `12x@5s-7s@gpu0`. Repeatable.",
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="TIME",
            help="How long callers wait for an answer, such as `200ms`. [default: forever]",
            show_default=False,
        ),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold",
            rich_help_panel=_TIMES,
            help="Start without the service times that a warm-up would have measured.",
        ),
    ] = False,
    rows: Annotated[
        str,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="Rows of a request; a request with more rows than a batch is split.",
        ),
    ] = "1",
    tenants: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="Tenants of the requests, such as `gold=1,default=4`.",
        ),
    ] = None,
    priorities: Annotated[
        str,
        typer.Option(
            rich_help_panel=_ARRIVALS,
            metavar="MIX",
            help="Priorities of the requests, such as `1=1,3=9`; 0 means none given.",
        ),
    ] = "0",
    optimum: Annotated[
        bool,
        typer.Option(
            help="Also compute how many requests a scheduler that knows the future would answer in time."
        ),
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot latency, and for several rates goodput and busy time, to this file, such as"
            " `out.png`. Needs matplotlib: `pip install matplotlib`.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, for each policy and rate.")
    ] = False,
    autoscale: fleet_options.Autoscale = False,
    signal: fleet_options.Signals = None,
    set_points: fleet_options.SetPoints = None,
    replicas: fleet_options.Replicas = "1-30",
    start: fleet_options.Start = None,
    start_up: fleet_options.StartUpTime = "40s:0.3",
    balancer: fleet_options.Balancer = "round_robin",
    hpa_sync: fleet_options.Sync = "15s",
    tolerance: fleet_options.Tolerance = "0.1",
    scale_up: fleet_options.ScaleUp = "0s,4/15s,100%/15s",
    scale_down: fleet_options.ScaleDown = "300s,100%/15s",
    keda: fleet_options.KedaTimes = None,
    scrape: fleet_options.ScrapeTimes = "1s:500ms",
    rate_window: fleet_options.RateWindow = "30s",
    average: fleet_options.Average = "15s",
    multiply: fleet_options.Multiply = 1,
    cpu_share: fleet_options.CpuShare = 0.0,
    wait: fleet_options.Wait = None,
) -> None:
    """Predict what a configuration does, by running the server's scheduler in virtual time.

    No model is loaded and no time passes: how long a batch takes comes from a formula or a measured
    table. All policies get the same requests. The optimum is the most requests that any schedule could
    answer on time if it knew all arrivals in advance; it exists for one model with a target, on a device
    that runs one batch at a time, with requests of one row.
    """
    with reported():
        from batcher.config import load_config
        from batcher.simulation.compare.experiment import Experiment
        from batcher.simulation.engine.scenario import deployment_of
        from batcher.simulation.policies.named import parse_policy

        settings = with_repository(load_config(config), config)
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
                slowdown or [],
                timer_delay,
                deadline,
                reply_time,
                batch_gap,
                cold=cold,
            ),
        )
        fleet = fleet_options.AutoscaleOptions(
            signal or [],
            set_points or [],
            replicas,
            start,
            start_up,
            balancer,
            hpa_sync,
            tolerance,
            scale_up,
            scale_down,
            keda,
            scrape,
            rate_window,
            average,
            multiply,
            cpu_share,
            wait,
        )
        if autoscale:
            from batcher.cli.autoscale import run, sweep_of

            sweep = sweep_of(experiment, fleet)
            fleet_options.refuse_with_autoscale(context, sweep.set_points)
            run(sweep, arrivals, json=json, plot=plot)
            return
        fleet_options.refuse_without_autoscale(context)
        _run(experiment, arrivals, optimum=optimum, json=json, plot=plot)


def _run(
    experiment: Experiment, arrivals: str, *, optimum: bool, json: bool, plot: Path | None
) -> None:
    from batcher.cli.progress import progress
    from batcher.cli.results import print_json, print_table, warn_of_targets
    from batcher.simulation.compare.experiment import cells, optimum_missing
    from batcher.simulation.compare.plot import draw_cells, image_path
    from batcher.simulation.compare.report import summarize

    capacity = experiment.deployment.capacity(experiment.traffic)
    picture = None if plot is None else image_path(plot)
    warn_of_targets(experiment.deployment)
    found: list[Cell] = []
    with progress(experiment.expected()) as advance:
        found.extend(cells(experiment, advance, optimum=optimum))
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
