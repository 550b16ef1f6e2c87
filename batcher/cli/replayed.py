"""What `batcher replay` prints: contents of the log, result of the replay, comparison of variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batcher.core.settings import ModelSettings
    from batcher.journal import Log, Segment
    from batcher.simulation.compare.report import Summary
    from batcher.simulation.logs.replay import Changed, Difference, Replayed

_MOST_CHANGES = 20
"""Changes of settings during the recording that are printed; `--json` has all."""

CLOSED_LOOP = (
    "note: the recorded requests follow the answers, as those of callers do that wait for one before"
    " they ask again (a closed loop). Under other settings these callers would have asked sooner or"
    " later than they did, so trust what is simulated less than for independent requests; batcher"
    " simulate --arrivals closed:CALLERS:THINK lets callers wait"
)
"""Printed below a comparison on such traffic."""

_MOST_SHOWN = 2_000
"""Characters of each side of a difference that are printed."""


def print_contents(log: Log, segments: Sequence[Segment], *, json: bool) -> None:
    """The contents of the log, or of the part of it that was asked for."""
    if json:
        _print_contents_json(log, segments)
        return
    logs = _logs(segments)
    for place, mine in enumerate(logs, 1):
        head = f"log {place} of {len(logs)}: " if len(logs) > 1 else ""
        first, last = mine[0].opening, mine[-1].opening
        requests = sum(segment.requests for segment in mine)
        typer.echo(
            f"{head}{_count(len(mine), 'segment')} ({first.number} to {last.number}),"
            f" {_seconds(mine):.1f} s from {_moment(first.wall_ns)}, {_count(requests, 'request')}"
        )
    for version, scheduler in _writers(segments):
        typer.echo(f"recorded by batcher {version}, scheduler {scheduler or 'unknown'}")
    for model, sections in segments[0].opening.models.items():
        typer.echo(f"model {model}: {_settings(sections)}")
    incident = log.incident
    if incident is not None:
        detail = f": {incident.detail}" if incident.detail else ""
        typer.echo(f"incident at {_moment(incident.wall_ns)}: {incident.reason}{detail}")
        for change in incident.changes:
            typer.echo(f"changed by an admin call, not in the configuration file: {change}")
    for warning in _warnings(segments):
        typer.echo(f"warning: {warning}", err=True)


def print_faults(faults: Sequence[str]) -> None:
    """What could not be read or replayed, on standard error."""
    for fault in faults:
        typer.echo(f"fault: {fault}", err=True)


def print_replayed(played: Replayed, took_ns: int, *, json: bool) -> None:
    """The result of the replay."""
    difference = played.first
    changes = [
        (changed.at_ns / 1e9, changed.model, *values)
        for changed in played.changes
        for values in _changed_values(changed)
    ]
    if json:
        _print_json(
            {
                "replay": {
                    "identical": difference is None,
                    "segments": played.segments,
                    "differing": played.differing,
                    "steps": played.steps,
                    "seconds": round(took_ns / 1e9, 3),
                    "faults": played.faults,
                    "changes": [
                        {"at": round(at, 6), "model": model, "path": path, "old": old, "new": new}
                        for at, model, path, old, new in changes
                    ],
                    "difference": None if difference is None else _difference_json(difference),
                }
            }
        )
        return
    for at, model, path, old, new in changes[:_MOST_CHANGES]:
        typer.echo(f"model {model}: {path} {_value(old)} -> {_value(new)} at {at:.3f} s")
    if len(changes) > _MOST_CHANGES:
        typer.echo(f"and {_count(len(changes) - _MOST_CHANGES, 'more change')} of settings")
    took = f"{_count(played.steps, 'step')} in {took_ns / 1e9:.2f} s"
    if difference is None:
        typer.echo(f"replay: identical, {took}")
        return
    seconds = difference.at_ns / 1e9
    typer.echo(
        f"replay: DIFFERENT in {played.differing} of {_count(played.segments, 'segment')}, {took}\n"
        f"first difference: {difference.segment}, step {difference.step}, at {seconds:.6f} s,"
        f" in its {difference.what}\n"
        f"  expected {_shown(difference.expected)}\n"
        f"  got      {_shown(difference.got)}"
    )


def print_comparison(
    summaries: Sequence[Summary], stretches: int, seeds: int, *, closed_loop: bool
) -> None:
    """Recorded, replayed and changed, side by side."""
    from batcher.cli.results import groups_table, policies_table, print_remarks, wide_console

    console = wide_console()
    counts = summaries[0].counts
    notes = [f"{_count(counts.requests, 'request')} at {summaries[0].rate:,.1f}/s"]
    if stretches > 1:
        notes.append(f"{stretches} parts without a gap")
    if seeds > 1:
        notes.append(f"{seeds} seeds")
    typer.echo(f"\n{', '.join(notes)}")
    console.print(policies_table(summaries))
    if summaries[0].groups:
        console.print(groups_table(summaries))
    for summary in summaries:
        print_remarks(summary)
    if closed_loop:
        typer.echo(CLOSED_LOOP)


def _logs(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments of each log: of each start of a server."""
    found: dict[str, list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.opening.log, []).append(segment)
    return list(found.values())


def _seconds(segments: Sequence[Segment]) -> float:
    """From the first of one log's segments to the end of the last."""
    return (segments[-1].last_ns - segments[0].opening.now_ns) / 1e9


def _print_contents_json(log: Log, segments: Sequence[Segment]) -> None:
    from dataclasses import asdict

    from batcher.journal import plain

    first = segments[0].opening
    incident = None
    if log.incident is not None:
        incident = asdict(log.incident)
    _print_json(
        {
            "log": {
                "segments": [segment.opening.number for segment in segments],
                "began": _moment(first.wall_ns),
                "seconds": round(sum(_seconds(mine) for mine in _logs(segments)), 3),
                "logs": [
                    {
                        "segments": [segment.opening.number for segment in mine],
                        "began": _moment(mine[0].opening.wall_ns),
                        "seconds": round(_seconds(mine), 3),
                    }
                    for mine in _logs(segments)
                ],
                "requests": sum(segment.requests for segment in segments),
                "steps": sum(segment.steps_count for segment in segments),
                "recorded_by": [
                    {"version": version, "scheduler": scheduler}
                    for version, scheduler in _writers(segments)
                ],
                "models": plain(first.models),
                "incident": plain(incident),
                "faults": log.faults,
                "warnings": _warnings(segments),
            }
        }
    )


def _print_json(document: object) -> None:
    import json

    typer.echo(json.dumps(document))


def _writers(segments: Sequence[Segment]) -> list[tuple[str, str]]:
    found = ((each.opening.version, each.opening.scheduler) for each in segments)
    return list(dict.fromkeys(found))


def _warnings(segments: Sequence[Segment]) -> list[str]:
    from batcher import __version__
    from batcher.journal import scheduler_fingerprint

    mine = scheduler_fingerprint()
    found = [
        f"recorded by another scheduler (batcher {version}, {scheduler}) than this one"
        f" (batcher {__version__}, {mine}), which may decide differently"
        for version, scheduler in _writers(segments)
        if scheduler != mine
    ]
    lacking = dict.fromkeys(name for each in segments for name in each.decoder.lacking)
    if lacking:
        found.append(f"the log does not have {', '.join(lacking)}; their defaults are used")
    return found


def _settings(sections: object) -> str:
    """Policy, target and batch size of a model, as text."""
    from batcher.config import changed_model
    from batcher.errors import ConfigError
    from batcher.journal import plain

    try:
        model = changed_model(plain(sections), ())
    except ConfigError:
        return "settings that this version cannot read"
    batching, target = model.batching, None
    texts = [batching.policy]
    target = batching.model_dump(mode="json")["target_p99"]
    texts.append("no target" if target is None else f"target {target}")
    texts.append(f"at most {batching.max_batch_size} rows")
    if batching.sizes:
        texts.append(f"run as {', '.join(map(str, batching.sizes))}")
    return ", ".join(texts)


def _changed_values(changed: Changed) -> Iterator[tuple[str, object, object]]:
    """Path, old and new value of everything that a change of settings changed."""
    from batcher.config import sections_of

    before, after = sections_of(changed.before), sections_of(changed.after)
    for name in before:
        for key in before[name] | after[name]:
            old, new = before[name].get(key), after[name].get(key)
            if old != new:
                yield f"{name}.{key}", old, new
    if changed.before.padding != changed.after.padding:
        yield "padding", _padding(changed.before), _padding(changed.after)


def _padding(settings: ModelSettings) -> list[dict[str, object]]:
    """As in the configuration file, but with the position of each input instead of its name."""
    return [
        {"input": each.input, "axis": each.axis, "buckets": list(each.buckets)}
        for each in settings.padding
    ]


def _value(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _difference_json(difference: Difference) -> dict[str, object]:
    return {
        "segment": difference.segment,
        "step": difference.step,
        "now_ns": difference.now_ns,
        "what": difference.what,
        "expected": repr(difference.expected),
        "got": repr(difference.got),
    }


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _moment(wall_ns: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(wall_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
