"""What `batcher suggest` finds and prints: how it chose, what to expect, and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Self

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batcher.simulation.compare.suggest import Asked, Found, Tried

MISSING = (
    "* without what the server itself, its callers and the network take for a request: a real server"
    " serves less, and answers take longer (--reply-time and --batch-gap stand for the server's part)"
)
"""Printed below every table with a rate or a latency."""

BAR_STEP = 1.2
"""Each further character of a bar stands for so many times the latency: from a short wait to the limit
there may be three powers of ten."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, step by step."""

    asked: Asked
    source: str
    """Where the service times come from."""
    row_rates: dict[int, float]
    size: int
    choices: list[Found]
    """One for each rate that was tried, or for each choice of buckets, the best first."""
    sweep: bool
    """Whether several rates were tried, because none was given."""
    found: Found | None
    curve: list[Tried]

    @classmethod
    def of(cls, asked: Asked, rate: float | None, source: str) -> Self:
        """Find the settings for this rate, or that of the arrivals, or of several rates."""
        from batcher.simulation.compare import suggest as core

        rates = core.row_rates(asked)
        size = core.largest_that_helps(rates, asked.goal.gain)
        wanted = rate or asked.load.arrivals.rate
        buckets = asked.configured_buckets
        if wanted:
            choices = core.best_buckets(asked, size, wanted)
            found = choices[0]
        else:
            capacity = asked.capacity(size, buckets)
            choices = [
                core.shortest_target(asked, size, buckets, share * capacity) for share in core.SWEEP
            ]
            held = [each for each in choices if each.target_ns is not None]
            found = held[-1] if held else choices[0]
        target_ns = found.target_ns
        curve = [] if target_ns is None else core.curve(asked, found, target_ns)
        return cls(asked, source, rates, size, choices, not wanted, found, curve)

    @property
    def title(self) -> str:
        """What was simulated, for the head of a plot."""
        from batcher.simulation.compare.suggest import in_units

        target_ns = None if self.found is None else self.found.target_ns
        goal = "" if target_ns is None else f", target {in_units(target_ns)}"
        return f"{self.asked.name}: batches of at most {self.size} rows{goal}"


def print_answer(answer: Answer) -> None:
    """Print everything, the settings last."""
    from batcher.simulation.compare.suggest import in_units

    asked, found = answer.asked, answer.found
    _print_sizes(answer)
    if answer.sweep:
        _print_sweep(answer)
    elif found is not None:
        _print_targets(answer, found)
    if found is None or found.target_ns is None:
        typer.echo(_none_holds(answer))
        return
    if len(answer.choices) > 1 and not answer.sweep:
        _print_buckets(answer)
    _print_curve(answer)
    held = next(each for each in found.tried if each.target_ns == found.target_ns)
    typer.echo(
        f"\n# {asked.name} at {found.rate:,.0f} requests/s: {held.in_time:.2%} in time at"
        f" {1 + asked.goal.headroom:.0%} of that rate, p99 {held.summary.counts.p99_ms or 0:.1f} ms, in"
        f" simulation *\n# service times {answer.source}; limit: {_why_limit(answer)}"
    )
    typer.echo(piece(asked, found), nl=False)
    longest = in_units(found.target_ns)
    typer.echo(
        f"# try it on recorded traffic: batcher replay LOG --set batching.target_p99={longest}"
    )


def piece(asked: Asked, found: Found) -> str:
    """The settings as a piece of configuration, in YAML."""
    import yaml

    section: dict[str, object] = {
        "name": asked.model.name,
        "version": asked.model.version,
        "executor": asked.model.executor,
        "batching": asked.batching(found.size, found.target_ns or 0),
    }
    if found.buckets:
        section["padding"] = [
            each.model_dump(mode="json", exclude_defaults=True) | {"buckets": list(found.buckets)}
            for each in asked.model.padding
        ]
    dumped: str = yaml.safe_dump({"models": [section]}, sort_keys=False, default_flow_style=None)
    return dumped


def _why_limit(answer: Answer) -> str:
    if answer.asked.load.deadline_ns is not None:
        return "the callers' deadline"
    return "ten targets, at least a second; how long an answer is of use is yours to say"


def _none_holds(answer: Answer) -> str:
    found = answer.found or answer.choices[0]
    asked = answer.asked
    best = max(found.tried, key=lambda each: each.in_time)
    capacity = asked.capacity(found.size, found.buckets)
    offered = found.rate * (1 + asked.goal.headroom)
    reasons = ", ".join(f"{why} {count:,}" for why, count in best.summary.dropped_by.items())
    unanswered = f" (not answered: {reasons})" if reasons else ""
    return (
        f"no target holds: at {offered:,.0f} requests/s (the rate plus {asked.goal.headroom:.0%}) at most"
        f" {best.in_time:.2%} are in time{unanswered}, {asked.goal.in_time:.2%} are wanted, and the device alone serves"
        f" {capacity:,.0f} *. Lower --rate, --headroom or --in-time, or add instances or devices\n{MISSING}"
    )


def _print_sizes(answer: Answer) -> None:
    from batcher.cli.results import table, wide_console

    asked = answer.asked
    capacity = asked.capacity(answer.size, asked.configured_buckets)
    typer.echo(
        f"{asked.name} on {asked.model.device}, service times {answer.source}; capacity"
        f" {capacity:,.0f} requests/s *"
    )
    rows = table("rows of a batch", "rows/s *", "", texts=0)
    for size, rate in answer.row_rates.items():
        chosen = "<- max_batch_size" if size == answer.size else ""
        rows.add_row(str(size), f"{rate:,.0f}", chosen)
    wide_console().print(rows)


def _print_targets(answer: Answer, found: Found) -> None:
    from batcher.cli.results import table, wide_console
    from batcher.simulation.compare.suggest import in_units

    headroom = answer.asked.goal.headroom
    typer.echo(
        f"targets at {found.rate * (1 + headroom):,.0f} requests/s: the rate, {found.rate:,.0f},"
        f" plus {headroom:.0%}; those that were drawn come at {found.tried[0].summary.rate:,.0f}/s"
    )
    rows = table("target_p99", "in time %", "p50 ms *", "p99 ms *", "not answered %", "", texts=0)
    for each in found.tried:
        chosen = "<- target_p99" if each.target_ns == found.target_ns else ""
        rows.add_row(in_units(each.target_ns), *_outcome(each), chosen)
    wide_console().print(rows)


def _print_buckets(answer: Answer) -> None:
    from batcher.cli.results import table, wide_console
    from batcher.simulation.compare.suggest import in_units

    rows = table("buckets", "target_p99", "", texts=1)
    for place, each in enumerate(answer.choices):
        rows.add_row(
            ", ".join(map(str, each.buckets)),
            in_units(each.target_ns or 0),
            "" if place else "<- buckets",
        )
    wide_console().print(rows)
    typer.echo("times of buckets that were not measured lie on a line between those that were")


def _print_sweep(answer: Answer) -> None:
    from batcher.cli.results import table, wide_console
    from batcher.simulation.compare.suggest import in_units

    headroom = answer.asked.goal.headroom
    typer.echo(
        f"no rate was given; the shortest target for several, each plus {headroom:.0%} (give --rate"
        " for yours)"
    )
    rows = table(
        "rate/s *", "target_p99", "in time %", "p50 ms *", "p99 ms *", "not answered %", "", texts=0
    )
    for found in answer.choices:
        held = [each for each in found.tried if each.target_ns == found.target_ns]
        goal = "none holds" if found.target_ns is None else in_units(found.target_ns)
        outcome = _outcome(held[0]) if held else ("-",) * 4
        chosen = "<- settings below" if found is answer.found and held else ""
        rows.add_row(f"{found.rate:,.0f}", goal, *outcome, chosen)
    wide_console().print(rows)


def _print_curve(answer: Answer) -> None:
    from batcher.cli.results import table, wide_console

    typer.echo("what to expect at other rates with the settings below")
    rows = table(
        *("rate/s *", "load %", "in time %", "p50 ms *", "p99 ms *", "not answered %"),
        "p99 *, each character 20 %",
        texts=0,
    )
    rows.columns[-1].justify = "left"
    every = [each.summary.counts.p99_ms for each in answer.curve]
    least = min((each for each in every if each), default=1.0)
    for each, p99_ms in zip(answer.curve, every, strict=True):
        rows.add_row(
            f"{each.summary.rate:,.0f}",
            f"{100 * each.summary.load:.0f}",
            *_outcome(each),
            "#" * (1 + round(log((p99_ms or least) / least) / log(BAR_STEP))),
        )
    wide_console().print(rows)
    typer.echo(MISSING)
    if len(answer.asked.config.models) > 1:
        typer.echo(f"other models are taken to be idle; only {answer.asked.name} was looked at")


def _outcome(each: Tried) -> Sequence[str]:
    counts = each.summary.counts
    return (
        f"{100 * each.in_time:.2f}",
        "-" if counts.p50_ms is None else f"{counts.p50_ms:.1f}",
        "-" if counts.p99_ms is None else f"{counts.p99_ms:.1f}",
        f"{100 * counts.dropped / counts.requests:.2f}",
    )
