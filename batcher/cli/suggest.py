"""`batcher suggest`: which target, batch size, buckets and limit suit a model and its load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.configuration import ConfigPath, checked_config
from batcher.cli.exits import reported
from batcher.cli.repository import with_repository
from batcher.cli.simulation_options import read, read_arrivals, read_duration

if TYPE_CHECKING:
    from collections import Counter

    from batcher.config import Config, ModelConfig
    from batcher.simulation.compare.suggest import Goal, Load
    from batcher.simulation.engine.profile import ModelProfile
    from batcher.simulation.engine.service_time import Noise
    from batcher.simulation.engine.simulation import Conditions
    from batcher.simulation.logs.load import LoggedLoad

EPILOG = """
How it chooses. Each step runs the server's scheduler in virtual time, with the settings that it prints:

1. `max_batch_size`: of the measured sizes, from the smallest on, each is taken that serves at least
   `--gain` (5 %) more rows a second than the one taken before it.

2. `target_p99`: the shortest round time at which at least `--in-time` (99 %) of the requests are answered
   in time, at the rate plus `--headroom` (20 %).

3. Buckets, where the model is padded and lengths are known (`--lengths`, or an event log): those with
   the shortest such target, of the configured ones and of the best 1 to 8; the fewest of equal ones.

4. `limit`: ten targets and at least a second; `deadline` with `--deadline`.

Without `--rate` and without a rate in `--arrivals` it does so for 20 to 80 % of what the device can do, and
prints the settings for the highest of these rates at which a target holds.

What it does not know: what the server itself, its callers and the network take for a request. That is
missing in every rate and latency it prints; `--reply-time` and `--batch-gap` stand for the server's part.

Exit codes: 0 when settings were found; 1 when no target holds, or a model could not be loaded; 2 when
the configuration, an option or a file is wrong.

Examples:

- `batcher suggest config.yaml --rate 800`: measures the model, and suggests settings for 800 independent
  requests a second.

- `batcher suggest config.yaml --profile profile.json --arrivals gamma:800:3 --plot out.png`: with times
  that `batcher profile -o profile.json` wrote, for bursts, with a plot of rate against p99.

- `batcher suggest config.yaml --arrivals /var/lib/batcher/journal`: for recorded requests, their lengths
  and rows, with the times that their batches took.

- `batcher suggest config.yaml`: several rates, where the load is not known yet.
"""

_LOAD = "Load"
_TIMES = "Service times and other times"
_GOAL = "What it has to hold"


def suggest(
    config: ConfigPath,
    *,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", rich_help_panel=_LOAD, help="Requests a second, such as `800`."
        ),
    ] = None,
    arrivals: Annotated[
        str,
        typer.Option(
            metavar="PROCESS|FILE|LOG",
            rich_help_panel=_LOAD,
            help="How requests arrive: a process or a file as `batcher simulate --arrivals` takes it, or"
            " an event log.",
        ),
    ] = "poisson",
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="MIX",
            rich_help_panel=_LOAD,
            help="Rows of a request, such as `1=8,4=2`. [default: 1, or as in the event log]",
            show_default=False,
        ),
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_LOAD,
            help="Lengths of the padded axis, as `batcher buckets` reads them. [default: as in the event"
            " log, or each bucket equally often]",
            show_default=False,
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", rich_help_panel=_LOAD, help="How long callers wait, such as `2s`."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model. Needed where the configuration has several.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TIMES,
            help="Service times that `batcher profile -o FILE` wrote. [default: as in the event log, or"
            " measured now]",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="SPREAD",
            rich_help_panel=_TIMES,
            help="How service times vary, as `batcher simulate --noise` takes it. [default: as measured]",
            show_default=False,
        ),
    ] = None,
    reply_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            rich_help_panel=_TIMES,
            help="Time that the server needs to send one answer, such as `40us`.",
        ),
    ] = None,
    batch_gap: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            rich_help_panel=_TIMES,
            help="Extra time of a batch on an idle instance, such as `400us`.",
        ),
    ] = None,
    in_time: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            rich_help_panel=_GOAL,
            min=1,
            max=100,
            help="Requests that must be answered in time.",
        ),
    ] = 99.0,
    headroom: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            rich_help_panel=_GOAL,
            min=0,
            max=1000,
            help="How far above the rate that must hold.",
        ),
    ] = 20.0,
    gain: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            rich_help_panel=_GOAL,
            min=0,
            max=1000,
            help="How many more rows a second a larger batch must serve.",
        ),
    ] = 5.0,
    requests: Annotated[
        int, typer.Option(metavar="N", min=100, help="Number of requests in a run.")
    ] = 10_000,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed: equal seeds, equal runs.")
    ] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot rate against p99 to this file, such as `out.png`. Needs matplotlib: `pip install"
            " matplotlib`.",
        ),
    ] = None,
) -> None:
    """Suggest a target, a batch size, buckets and a limit for a model and its load.

    Needs a configuration file and no running server. Without `--profile` and without an event log, it
    loads the model and measures it first, as `batcher profile` does. It prints how it chose, what to
    expect at other rates, and the settings as a piece of configuration. One model is looked at, as if
    it had its device to itself.
    """
    with reported():
        from batcher.cli.simulation_options import read_conditions
        from batcher.config import load_config
        from batcher.journal import is_log
        from batcher.simulation.compare.plot import image_path
        from batcher.simulation.compare.suggest import Goal
        from batcher.simulation.engine.service_time import parse_noise

        measures = profile is None and not is_log(Path(arrivals))
        read_config = checked_config if measures else load_config
        settings = with_repository(read_config(config), config)
        name, chosen = _only_model(settings, model)
        if rate is not None and not 0 < rate < float("inf"):
            from batcher.errors import InputError

            raise InputError(f"--rate: got {rate:g}; allowed: requests a second above 0, as 800")
        picture = None if plot is None else image_path(plot)
        waits_ns = read_duration("--deadline", deadline)
        load, logged = _load(chosen, arrivals, rows, lengths, waits_ns)
        conditions = read_conditions([], None, None, reply_time, batch_gap, cold=False)
        times, source = _times(settings, name, chosen, profile, logged)
        suggest_for(
            settings,
            times,
            load=load,
            rate=rate,
            source=source,
            goal=Goal(in_time / 100, headroom / 100, gain / 100),
            conditions=conditions,
            noise=None if noise is None else read("--noise", noise, parse_noise),
            requests=requests,
            seed=seed,
            picture=picture,
        )


def suggest_for(
    settings: Config,
    times: ModelProfile,
    *,
    load: Load | None = None,
    rate: float | None = None,
    source: str = "measured now",
    goal: Goal | None = None,
    conditions: Conditions | None = None,
    noise: Noise | None = None,
    requests: int = 10_000,
    seed: int = 0,
    picture: Path | None = None,
) -> None:
    """Suggest settings for one measured model and print them.

    Ends with exit code 1 where no target holds.
    """
    from dataclasses import replace

    from batcher.cli.exits import FAILED
    from batcher.cli.progress import progress
    from batcher.cli.suggested import Answer, print_answer
    from batcher.simulation.compare.plot import draw_rates
    from batcher.simulation.compare.suggest import Asked, Goal, Load
    from batcher.simulation.engine.scenario import model_names
    from batcher.simulation.engine.simulation import Conditions
    from batcher.simulation.traffic.arrivals import Poisson

    names = model_names(settings)
    (name,) = (
        name
        for name, each in names.items()
        if (each.name, each.version) == (times.model, times.model_version)
    )
    asked = Asked(
        settings,
        name,
        names[name],
        times,
        load or Load(Poisson()),
        goal or Goal(),
        replace(conditions or Conditions(), seed=seed),
        requests,
        noise=noise,
    )
    with progress(asked.expected(rate)) as advance:
        answer = Answer.of(replace(asked, report=advance), rate, source)
    print_answer(answer)
    if answer.found is None or answer.found.target_ns is None:
        raise typer.Exit(FAILED)
    if picture is not None:
        draw_rates(
            [each.summary for each in answer.curve],
            answer.found.target_ns,
            answer.found.rate,
            asked.goal.headroom,
            answer.title,
            picture,
        )
        typer.echo(f"written: {picture}")


def _only_model(config: Config, wanted: str | None) -> tuple[str, ModelConfig]:
    from batcher.cli.measuring import chosen_models
    from batcher.errors import InputError

    models = chosen_models(config, wanted)
    if len(models) > 1:
        raise InputError(
            f"the configuration has several models; choose --model {', '.join(models)}"
        )
    return next(iter(models.items()))


def _load(
    model: ModelConfig,
    arrivals: str,
    rows: str | None,
    lengths: Path | None,
    deadline_ns: int | None,
) -> tuple[Load, LoggedLoad | None]:
    """The load, and what an event log says if it is one."""
    from batcher.cli.replayed import CLOSED_LOOP, print_faults
    from batcher.errors import InputError
    from batcher.journal import is_log, read_log
    from batcher.runtime.models.model import model_key
    from batcher.simulation.compare.suggest import Load
    from batcher.simulation.logs.load import logged_load
    from batcher.simulation.traffic.arrivals import Closed
    from batcher.simulation.traffic.workload import Mix, parse_whole_mix

    mix = (
        None if rows is None else read("--rows", rows, lambda text: parse_whole_mix(text, least=1))
    )
    known = None if lengths is None else _lengths(lengths)
    if is_log(Path(arrivals)):
        log = read_log(Path(arrivals))
        logged = logged_load(log.segments, model_key(model.name, model.version), model.device)
        print_faults(log.faults)
        if logged.closed:
            typer.echo(CLOSED_LOOP)
        load = Load(logged.arrivals, mix or logged.rows, known or logged.lengths, deadline_ns)
        return load, logged
    process = read_arrivals(arrivals)
    if isinstance(process, Closed):
        raise InputError(
            "--arrivals: got a closed loop, whose rate follows from the answers; allowed: poisson, gamma,"
            " mmpp, a file, or an event log"
        )
    return Load(process, mix or Mix((1,), (1.0,)), known, deadline_ns), None


def _lengths(path: Path) -> Counter[int]:
    from batcher.errors import InputError
    from batcher.simulation.traffic.buckets import read_lengths

    try:
        return read_lengths(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--lengths: {path}: cannot be read: {error}") from None


def _times(
    config: Config,
    name: str,
    model: ModelConfig,
    profile: Path | None,
    logged: LoggedLoad | None,
) -> tuple[ModelProfile, str]:
    """The service times, and where they come from."""
    import asyncio

    from batcher.cli.measuring import measure_models, read_sizes
    from batcher.errors import InputError
    from batcher.simulation.engine.profile import read_profile

    largest = model.batching.most_rows
    if profile is not None:
        found = read_profile(profile)
        times = found.get((model.name, model.version))
        if times is None:
            measured = ", ".join(f"{name} version {version}" for name, version in found)
            raise InputError(
                f"--profile: has {measured}; model {name!r} is version {model.version}"
            )
        return times, f"from {profile.name}"
    if logged is not None:
        if logged.profile is None:
            raise InputError("the log has no batch that ended; give --profile, or another log")
        most = logged.largest
        guessed = f", those of more than {most} rows guessed" if most < largest else ""
        return logged.profile, f"as recorded{guessed}"
    sizes = {name: read_sizes(model, None)}
    (times,) = asyncio.run(measure_models(config, {name: model}, sizes, repeats=20))
    return times, "measured now"
