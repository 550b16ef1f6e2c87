"""`batcher simulate --autoscale`: which signal a fleet should be scaled on."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from batcher.cli.autoscale_options import (
    AutoscaleOptions,
    read_hpa,
    read_scrape,
    read_signals,
    read_start_up,
)
from batcher.cli.simulation_options import read, read_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batcher.simulation.autoscale.points import Point
    from batcher.simulation.autoscale.sweep import Sweep
    from batcher.simulation.compare.experiment import Experiment
    from batcher.simulation.traffic.arrivals import Process


def sweep_of(experiment: Experiment, options: AutoscaleOptions) -> Sweep:
    """Returns what is tried. Of the experiment it takes the deployment, the traffic, the arrivals and the conditions.

    Raises:
        InputError: an option is wrong, or does not go with --autoscale.
    """
    from batcher.errors import InputError
    from batcher.simulation.autoscale.points import default_set_points
    from batcher.simulation.autoscale.sweep import Sweep
    from batcher.simulation.fleet import Clients, FleetSettings, Processor, parse_balancer

    if len(experiment.policies) > 1:
        raise InputError("--policy: got several; allowed with --autoscale: one")
    deployment = experiment.deployment
    if all(model.settings.target_ns is None for model in deployment.models):
        raise InputError(
            "--autoscale: no model has a target, so everything is on time; set target_p99 or give --target"
        )
    hpa, keda = read_hpa(options)
    if options.start is not None and not 0 <= options.start <= hpa.max_replicas:
        raise InputError(
            f"--start: got {options.start}; allowed: from 0 to the maximum of --replicas, {hpa.max_replicas}"
        )
    if not 0 <= options.cpu_share <= 1:
        raise InputError(f"--cpu-share: got {options.cpu_share}; allowed: from 0 to 1")
    processor = Processor(batch_share=options.cpu_share)
    fleet = FleetSettings(
        deployment,
        policy=experiment.policies[0].name,
        conditions=experiment.conditions,
        start_up=read_start_up(options.start_up),
        clients=Clients(wait_ns=read_duration("--wait", options.wait, or_zero=True) or 0),
        balancer=read("--balancer", options.balancer, parse_balancer),
        scrape=read_scrape(options),
        processor=processor,
    )
    wanted = read_signals(options.signals, options.set_points)
    return Sweep(
        fleet,
        experiment.traffic,
        _arrivals(experiment, options.multiply),
        {
            signal: points or default_set_points(signal, deployment, experiment.traffic, processor)
            for signal, points in wanted.items()
        },
        hpa,
        keda,
        read_duration("--average", options.average, or_zero=True) or 0,
        experiment.seeds,
        experiment.requests,
        experiment.duration_ns,
        options.start,
    )


def _arrivals(experiment: Experiment, times: int) -> Process:
    from batcher.errors import InputError
    from batcher.simulation.traffic.arrivals import MOST_REQUESTS, Closed, Recorded
    from batcher.simulation.traffic.day import Day
    from batcher.simulation.traffic.multiplied import Multiplied

    arrivals = experiment.arrivals
    if isinstance(arrivals, Closed):
        raise InputError(
            "--autoscale: callers in a closed loop wait for a fleet that is too small; give --arrivals with a"
            " rate, a day or a trace"
        )
    if len(experiment.rates) > 1:
        raise InputError("--rate and --load: got several; allowed with --autoscale: one")
    if times < 1 or (times > 1 and not isinstance(arrivals, Recorded)):
        raise InputError(
            f"--multiply: got {times}; allowed: from 1 on, for a trace in a file; other arrivals have a rate"
        )
    if times > MOST_REQUESTS:
        raise InputError(f"--multiply: got {times}; allowed: at most {MOST_REQUESTS}")
    process: Process = arrivals if times == 1 else Multiplied(arrivals, times)
    rate = experiment.rates[0]
    if rate is not None:
        process = process.at_rate(rate)
    endless = not isinstance(arrivals, Recorded | Day)
    if endless and experiment.requests is None and experiment.duration_ns is None:
        raise InputError(
            "--autoscale: these arrivals do not end; give --duration, such as 1h, or --requests"
        )
    return process


def run(sweep: Sweep, arrivals: str, *, json: bool, plot: Path | None) -> None:
    """Simulates everything, and prints and draws what it came to."""
    from batcher.cli.progress import progress
    from batcher.cli.results import warn_of_targets
    from batcher.simulation.autoscale.plot import Panel, draw_fronts
    from batcher.simulation.autoscale.sweep import points
    from batcher.simulation.compare.plot import image_path

    picture = None if plot is None else image_path(plot)
    warn_of_targets(sweep.fleet.deployment)
    loads = [sweep.load(seed) for seed in sweep.seeds]
    runs = sum(len(each) for each in sweep.set_points.values())
    with progress(runs * sum(map(len, loads))) as advance:
        found = list(points(sweep, advance, loads))
    if json:
        print_json(found)
    else:
        start = sweep.start_size(loads[0])
        requests = len(loads[0])
        span_h = int(loads[0].at_ns[-1]) / 3.6e12
        typer.echo(
            f"{Path(arrivals).name}: {requests:,} requests in {span_h:.2f} hours, {start} replicas at the start"
        )
        print_tables(found)
    if picture is not None:
        names = ", ".join(model.name for model in sweep.fleet.deployment.models)
        draw_fronts([Panel(Path(arrivals).name, found)], names, picture)


def print_json(found: Sequence[Point]) -> None:
    """Prints one object a line for each point, then one for each signal with what it costs."""
    from batcher.simulation.autoscale.front import extra_hours, front

    worth = front(found)
    for point in found:
        typer.echo(dumps({"kind": "point", **figures(point), "front": point in worth}))
    for signal, extras in extra_hours(found).items():
        shown = {f"{fraction:g}": extra for fraction, extra in extras.items()}
        typer.echo(dumps({"kind": "signal", "signal": signal.value, "extra_hours": shown}))


def figures(point: Point) -> dict[str, Any]:
    """Returns a point as JSON has it."""
    from dataclasses import asdict

    found = asdict(point)
    return {**found, "signal": point.signal.value, "on_time_fraction": point.on_time_fraction}


def print_tables(found: Sequence[Point]) -> None:
    """Prints a row for each point, and for each signal what the same on-time fraction costs with it."""
    from batcher.cli.results import table, wide_console
    from batcher.simulation.autoscale.front import by_signal, front

    points = table(
        *("signal", "set-point", "on time %", "replica-hours", "mean", "peak", "flaps"),
        *("refused %", "late %", ""),
        texts=1,
    )
    worth = front(found)
    for mine in by_signal(found).values():
        own = front(mine)
        for point in mine:
            mark = "**" if point in worth else "*" if point in own else ""
            points.add_row(*_row(point), mark)
        points.add_section()
    console = wide_console()
    console.print(points)
    typer.echo("** no other point has more on time for fewer replica-hours; * none of this signal")
    _print_extras(found)


def _row(point: Point) -> tuple[str, ...]:
    def percent(count: float) -> str:
        return f"{100 * count / point.requests:.2f}"

    return (
        point.signal.value,
        f"{point.set_point:.3g}",
        percent(point.on_time),
        f"{point.replica_hours:.2f}",
        f"{point.mean_replicas:.1f}",
        f"{point.peak_replicas:.0f}",
        f"{point.flaps:.1f}".removesuffix(".0"),
        percent(point.refused),
        percent(point.late),
    )


def _print_extras(found: Sequence[Point]) -> None:
    from batcher.cli.results import table, wide_console
    from batcher.simulation.autoscale.front import FRACTIONS, by_signal, extra_hours

    if len(by_signal(found)) < 2:
        return
    typer.echo("\nmore replica-hours than the best signal, at the same on-time fraction:")
    extras = table("signal", *(f"{100 * fraction:g} %" for fraction in FRACTIONS), texts=1)
    for signal, mine in extra_hours(found).items():
        shown = ["-" if extra is None else f"{extra:.0%}" for extra in mine.values()]
        extras.add_row(signal.value, *shown)
    wide_console().print(extras)
