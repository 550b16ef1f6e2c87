"""What `batcher simulate` prints: tables for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from batcher.simulation.compare.experiment import Experiment
    from batcher.simulation.compare.report import Counts, Summary
    from batcher.simulation.engine.deployment import Deployment

NOT_KNOWN = (
    "not known here, so no real server reaches that: what the server itself, its callers and the"
    " network take for a request (--reply-time and --batch-gap stand for the server's part)"
)
"""Printed next to every capacity of a simulation."""

PIPE_WIDTH = 160
"""Columns of a table that is not printed to a terminal."""


def wide_console() -> Console:
    """Standard output, wide enough for a table if it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_json(summaries: Sequence[Summary]) -> None:
    """One object a line, in the order of the runs."""
    import json

    for summary in summaries:
        typer.echo(json.dumps(summary.as_json()))


def warn_of_targets(deployment: Deployment) -> None:
    """Warn on standard error of targets that no policy can meet."""
    from batcher.clock import MILLISECOND

    for model in deployment.models:
        if not model.reachable:
            typer.echo(
                f"warning: {model.name} cannot meet its target of"
                f" {(model.settings.target_ns or 0) / MILLISECOND:.3g} ms: a batch of one row takes"
                f" {model.curve[1] / MILLISECOND:.3g} ms, so no request is on time",
                err=True,
            )


def print_table(
    experiment: Experiment, arrivals: str, summaries: Sequence[Summary], missing: str | None
) -> None:
    """Print a table for each rate, and for each kind of request where there are several.

    `missing` says why there is no optimum.
    """
    from batcher.clock import MILLISECOND

    console = wide_console()
    capacity = experiment.deployment.capacity(experiment.traffic)
    models = []
    for model in experiment.deployment.models:
        target_ns = model.settings.target_ns
        goal = "no target" if target_ns is None else f"target {target_ns / MILLISECOND:g} ms"
        models.append(f"{model.name} ({goal}, at most {model.settings.max_batch_size} rows)")
    typer.echo(
        f"models: {', '.join(models)}; capacity: {capacity:,.0f} requests/s of the devices alone"
    )
    typer.echo(NOT_KNOWN)
    policies = len(experiment.policies)
    for place in range(0, len(summaries), policies):
        cells = summaries[place : place + policies]
        typer.echo(f"\n{arrivals}: {_offered(experiment, cells[0])}")
        console.print(policies_table(cells))
        if cells[0].groups:
            console.print(groups_table(cells))
        for summary in cells:
            print_remarks(summary)
    if missing is not None:
        typer.echo(f"no optimum: {missing}")


def _offered(experiment: Experiment, cell: Summary) -> str:
    from batcher.simulation.traffic.arrivals import Closed

    text = f"{cell.counts.requests:,} requests"
    # In a closed loop each policy has a rate of its own: its goodput.
    if not isinstance(experiment.arrivals, Closed):
        text = f"{text} at {cell.rate:,.1f}/s, {cell.load:.0%} of capacity"
    return f"{text}, {cell.seeds} seeds" if cell.seeds > 1 else text


def print_remarks(summary: Summary) -> None:
    """Print why requests were dropped, batches that failed as a whole, and policies that failed."""
    if summary.dropped_by:
        reasons = ", ".join(_dropped(why, count) for why, count in summary.dropped_by.items())
        typer.echo(f"{summary.policy} dropped: {reasons}")
    if summary.failed_batches:
        typer.echo(
            f"{summary.policy} batches that failed without a failing request being found:"
            f" {summary.failed_batches:,}"
        )
    for error in dict.fromkeys(summary.errors):
        typer.echo(f"{summary.policy} FAILED and went on with greedy batches: {error}")


def _dropped(why: str, count: int) -> str:
    """One reason with its count; in words where the scheduler's own word would mislead."""
    if why == "rejected:model_removed":
        return f"still waiting when the model was unloaded or the recording ended {count:,}"
    return f"{why} {count:,}"


def table(*headings: str, texts: int) -> Table:
    """An empty table; all columns but the first `texts` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD)
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="left" if place < texts else "right", no_wrap=True)
    return made


def policies_table(cells: Sequence[Summary]) -> Table:
    """A row for each summary, and one for the optimum."""
    found = table(
        "policy",
        "on time %",
        "goodput/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "dropped %",
        "batches",
        "mean rows",
        "busy %",
        texts=1,
    )
    for cell in cells:
        counts = cell.counts
        found.add_row(
            cell.policy,
            _percent(counts.on_time, counts.requests),
            f"{cell.goodput:,.1f}",
            _ms(counts.p50_ms),
            _ms(counts.p95_ms),
            _ms(counts.p99_ms),
            _percent(counts.dropped, counts.requests),
            f"{cell.batches:,}",
            f"{cell.mean_batch:.2f}",
            f"{100 * cell.busy_fraction:.1f}",
        )
    best = cells[0]
    if best.optimum_on_time is not None:
        found.add_row(
            "(optimum)",
            _percent(best.optimum_on_time, best.counts.requests),
            f"{best.optimum_goodput:,.1f}",
        )
    return found


def groups_table(cells: Sequence[Summary]) -> Table:
    """A row for each summary and kind of request."""
    found = table(
        "policy",
        "model",
        "tenant",
        "priority",
        "requests",
        "on time %",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "dropped %",
        texts=3,
    )
    for cell in cells:
        for kind, counts in cell.groups.items():
            found.add_row(
                cell.policy,
                kind.model,
                kind.tenant or "-",
                str(kind.priority or "-"),
                f"{counts.requests:,}",
                *_outcome(counts),
            )
    return found


def _outcome(counts: Counts) -> tuple[str, ...]:
    return (
        _percent(counts.on_time, counts.requests),
        _ms(counts.p50_ms),
        _ms(counts.p95_ms),
        _ms(counts.p99_ms),
        _percent(counts.dropped, counts.requests),
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
