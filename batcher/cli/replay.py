"""`batcher replay`: play a recorded event log again, as it was or with other settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.exits import FAILED, reported
from batcher.cli.simulation_options import read, read_duration

if TYPE_CHECKING:
    from batcher.journal import Log, Segment
    from batcher.simulation.logs.replay import Replayed
    from batcher.simulation.logs.whatif import Variant

EPILOG = """
Exit codes: 0 when the scheduler decided exactly as recorded; 1 when it did not; 2 when an option is
wrong or nothing in the log can be read. Parts that cannot be read are reported on standard error, and
the rest is replayed.

Examples:

- `batcher replay /var/lib/batcher/journal`: what the log contains, and whether it replays.

- `batcher replay incident.batcherlog --set batching.target_p99=40ms`: what another target would have
  done in the last minutes before an incident.

- `batcher replay journal --from 30s --to 90s --policy fixed:2ms --policy greedy --plot out.png`: other
  policies, on one minute of the log.
"""

_PART = "Part of the log"
_CHANGES = "Changes to try"


def replay(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG",
            show_default=False,
            help="The folder of a journal, one of its files, or a flight record.",
        ),
    ],
    *,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_CHANGES,
            help="A policy to try, as `batcher simulate --policy` takes it. Repeatable.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            rich_help_panel=_CHANGES,
            help="A setting to try, such as `batching.target_p99=40ms` or `queue.max_requests=64`."
            " Repeatable.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_CHANGES,
            help="Change and report only this model.",
        ),
    ] = None,
    segment: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            rich_help_panel=_PART,
            min=0,
            help="Only the segment with this number. Repeatable.",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            rich_help_panel=_PART,
            help="Begin with the segment at this time after the beginning of the log, such as `30s`.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            rich_help_panel=_PART,
            help="End at this time after the beginning of the log.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed: equal seeds, equal runs.")
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Pool the results of this many runs, from `--seed` on."
        ),
    ] = 1,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Plot latency to this file, such as `out.png`. Needs matplotlib."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON objects, one a line, instead of tables.")
    ] = False,
) -> None:
    """Replay a recorded event log, and try other settings on the recorded requests.

    Prints what the log contains, replays every segment from its own snapshot, and compares each
    decision of the scheduler with the recorded one. With `--set` or `--policy` it also simulates the
    recorded requests under those settings, with service times as recorded, and prints the result next
    to what was recorded.
    """
    with reported():
        from batcher.errors import InputError
        from batcher.journal import read_log
        from batcher.simulation.compare.plot import image_path

        picture = None if plot is None else image_path(plot)
        found = read_log(log)
        part = _part(found, segment or [], from_, to)
        what_if = _variants(part, policy or [], assignments or [], model)
        if picture is not None and what_if is None:
            raise InputError(
                f"--plot: got {plot}, but nothing to plot; add --set or --policy, such as --policy"
                " configured"
            )
        played = _replay(found, part, json=json)
        if what_if:
            timer_delay = played.late_ns
            _compare(part, what_if, timer_delay, range(seed, seed + seeds), picture, json=json)
        if played.first is not None:
            raise typer.Exit(FAILED)


@dataclass(frozen=True, slots=True)
class _Part:
    """The segments that were asked for, and the time at which to end."""

    segments: list[Segment]
    until_ns: int
    log: Path


@dataclass(frozen=True, slots=True)
class _Asked:
    """The variants to try, the models that they change, and the largest batch of any of them."""

    variants: list[Variant]
    models: frozenset[str]
    max_rows: int


def _part(log: Log, numbers: list[int], from_: str | None, to: str | None) -> _Part:
    from batcher.clock import SECOND
    from batcher.config import format_duration
    from batcher.core.times import NEVER_NS
    from batcher.errors import InputError

    segments = log.segments
    first = segments[0]
    if numbers:
        segments = [each for each in segments if each.opening.number in numbers]
        several = [n for n in numbers if sum(each.opening.number == n for each in segments) > 1]
        if several:
            raise InputError(
                f"--segment: got {several[0]}, which several logs in {first.path.parent} have;"
                " give --from and --to, or the segment's own file in place of the folder"
            )
        missing = set(numbers) - {each.opening.number for each in segments}
        if missing:
            there = [each.opening.number for each in log.segments]
            known = f"{min(there)} to {max(there)}"
            raise InputError(f"--segment: got {min(missing)}; allowed: {known}")
    from_ns = read_duration("--from", from_, or_zero=True) or 0
    to_ns = read_duration("--to", to)
    until_ns = NEVER_NS if to_ns is None else to_ns
    chosen = [each for each in segments if each.since(each.last_ns) >= from_ns]
    chosen = [each for each in chosen if each.since(each.opening.now_ns) <= until_ns]
    if not chosen or until_ns < from_ns:
        length_ns = max(each.since(each.last_ns) for each in log.segments)
        length = format_duration(round(length_ns / SECOND) * SECOND)
        raise InputError(
            f"--from {from_ or '0s'} --to {to or 'the end'}: the log, which is {length} long, has nothing"
            " there; choose a part of it"
        )
    return _Part(chosen, until_ns, first.path)


def _variants(
    part: _Part, policies: list[str], assignments: list[str], model: str | None
) -> _Asked | None:
    """The variants to try, or None. Raises `InputError` for a wrong one before anything runs."""
    from batcher.config import changed_model
    from batcher.errors import InputError
    from batcher.journal import plain
    from batcher.simulation.logs.generations import model_of
    from batcher.simulation.logs.variants import variants
    from batcher.simulation.policies.named import CONFIGURED, parse_policy

    sections = {
        model_of(name): plain(value)
        for segment in part.segments
        for name, value in segment.opening.models.items()
    }
    models = frozenset(sections)
    if model is not None:
        models = frozenset(name for name in sections if model in (name, name.rpartition("/")[0]))
        if not models:
            raise InputError(f"--model: got {model!r}; allowed: {', '.join(sections)}")
    if not policies and not assignments:
        return None
    wanted = [read("--policy", name, parse_policy) for name in policies or [CONFIGURED]]
    made = variants(sections, models, assignments, wanted)
    largest = [
        changed_model(sections[name], change).batching.most_rows
        for name in sections
        for change in (assignments if name in models else [], [])
    ]
    return _Asked(made, models, max(largest, default=1))


def _replay(log: Log, part: _Part, *, json: bool) -> Replayed:
    """Replay it as recorded, and print the result."""
    from batcher.cli.progress import progress
    from batcher.cli.replayed import print_contents, print_faults, print_replayed
    from batcher.clock import monotonic_ns
    from batcher.simulation.logs.replay import replay as play

    print_contents(log, part.segments, json=json)
    print_faults(log.faults)
    began_ns = monotonic_ns()
    with progress(sum(each.steps_count for each in part.segments)) as advance:
        played = play(part.segments, until_ns=part.until_ns, report=advance)
    print_faults(played.faults)
    print_replayed(played, monotonic_ns() - began_ns, json=json)
    return played


def _compare(
    part: _Part,
    asked: _Asked,
    late_ns: list[int],
    seeds: range,
    picture: Path | None,
    *,
    json: bool,
) -> None:
    """Simulate the variants, and print them next to what was recorded."""
    from batcher.cli.progress import progress
    from batcher.cli.replayed import print_comparison
    from batcher.cli.results import print_json
    from batcher.errors import InputError
    from batcher.simulation.compare.experiment import Cell
    from batcher.simulation.compare.plot import draw_cells
    from batcher.simulation.compare.report import summarize
    from batcher.simulation.logs.closed import is_closed_loop
    from batcher.simulation.logs.stretch import Samples, stretches
    from batcher.simulation.logs.whatif import REPLAYED, Variant, WhatIf

    samples = Samples(asked.max_rows)
    found = list(stretches(part.segments, part.until_ns, samples))
    learned = samples.learned(late_ns)
    every = [WhatIf(stretch, learned, asked.models) for stretch in found]
    played = [each for each in every if each.requests]
    if not played:
        raise InputError(
            "no request ended in this part of the log; choose a longer one (--from, --to, --segment)"
        )
    cells = [Cell(None, tuple(each.recorded() for each in played))]
    variants = [Variant(REPLAYED), *asked.variants]
    with progress(len(variants) * len(seeds) * len(played)) as advance:
        for variant in variants:
            runs = []
            for seed in seeds:
                for each in played:
                    runs.append(each.play(variant, seed))
                    advance(variant.name, 1)
            cells.append(Cell(None, tuple(runs)))
    capacity = played[0].capacity()
    summaries = [summarize(cell, capacity) for cell in cells]
    if json:
        print_json(summaries)
    else:
        closed = any(is_closed_loop(run) for run in cells[0].runs)
        print_comparison(summaries, len(played), len(seeds), closed_loop=closed)
    if picture is not None:
        deployment = cells[0].runs[0].deployment
        draw_cells(cells, summaries, deployment, part.log.name, picture)
