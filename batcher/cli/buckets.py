"""`batcher buckets`: propose padding buckets from observed lengths."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.exits import reported

if TYPE_CHECKING:
    from collections import Counter

    from batcher.simulation.traffic.buckets import Buckets

_OF_A_LOG = "For an event log: which axis"

EPILOG = """
LENGTHS is a text file with one length a line, or a length and its count (`17,320`); `-` reads standard
input. A length is that of one variable axis of one request, for example the number of tokens in a
sentence.

LENGTHS may also be an event log: the folder of a journal, one of its files, or a flight record. Then
each row counts once. Requests that were refused as too long are not in it.

Each request is padded to the length of its bucket, and the device computes the padding as well. More
buckets mean less padding, but fewer requests in each bucket and so smaller batches: take the smallest
number after which the padding hardly shrinks.

Exit codes: 0 when buckets were found; 2 when the file or an option is wrong.

Examples:

- `batcher buckets lengths.txt`: the best 1 to 8 buckets, next to evenly spaced ones.

- `batcher buckets lengths.txt --count 5 --longest 512 --multiple 8`: five buckets that are multiples of
  8; the last is 512.

- `batcher buckets lengths.txt --count 5 --json`: the same as JSON.

- `batcher buckets /var/lib/batcher/journal --model minilm`: from recorded requests.
"""


def buckets(
    lengths: Annotated[
        Path,
        typer.Argument(
            metavar="LENGTHS", help="A file of lengths, `-`, or an event log.", allow_dash=True
        ),
    ],
    *,
    count: Annotated[
        int, typer.Option(metavar="N", min=1, max=32, help="The most buckets to propose.")
    ] = 8,
    multiple: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=65536, help="Propose only multiples of this length, such as 8."
        ),
    ] = 1,
    longest: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000_000,
            help="The longest request to serve: longer ones would be refused, and do not count."
            " [default: the longest in the file]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", rich_help_panel=_OF_A_LOG, help="The model whose requests count."
        ),
    ] = None,
    place: Annotated[
        int | None,
        typer.Option(
            "--input",
            metavar="N",
            min=0,
            rich_help_panel=_OF_A_LOG,
            help="The input, by its position in the model, from 0.",
        ),
    ] = None,
    axis: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            rich_help_panel=_OF_A_LOG,
            help="The axis of that input; 0 is the rows, so the first other one is 1.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Propose the padding buckets that waste least for lengths that were observed.

    No other buckets of the same number pad these lengths less. With more than 8,192 different lengths,
    neighboring ones are merged first, and the proposal is close to the best. The last line of the
    output goes under `padding` in the configuration file.
    """
    with reported():
        from batcher.simulation.traffic.buckets import evenly_spaced, propose, served

        observed, what = _observed(lengths, model, place, axis)
        counts = observed if longest is None else served(observed, longest, multiple)
        found = propose(counts, count, multiple=multiple, longest=longest)
        even = [
            evenly_spaced(counts, len(each.lengths), multiple=multiple, longest=longest)
            for each in found
        ]
        if json:
            _print_json(what, observed, counts, found, even)
        else:
            _print(what, observed, counts, found, even)


def _observed(
    path: Path, model: str | None, place: int | None, axis: int | None
) -> tuple[Counter[int], str]:
    """Length -> count, and what was counted. The options are for event logs alone."""
    from batcher.errors import InputError
    from batcher.journal import is_log

    if is_log(path):
        return _logged(path, model, place, axis), "rows"
    if (model, place, axis) != (None, None, None):
        raise InputError(
            f"--model, --input and --axis choose from an event log, and {path} is none; leave them out"
        )
    return _read(path), "requests"


def _logged(path: Path, model: str | None, place: int | None, axis: int | None) -> Counter[int]:
    from batcher.cli.progress import progress
    from batcher.cli.replayed import print_faults
    from batcher.errors import InputError
    from batcher.journal import read_log
    from batcher.simulation.traffic.lengths import logged_lengths, the_axis

    log = read_log(path)
    with progress(sum(each.steps_count for each in log.segments)) as advance:
        found = logged_lengths(log, advance)
    print_faults(log.faults)
    try:
        return the_axis(found, model, place, axis)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read(path: Path) -> Counter[int]:
    from batcher.errors import InputError
    from batcher.simulation.traffic.buckets import read_lengths

    try:
        piped = path == Path("-")
        text = sys.stdin.read() if piped else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text, at byte {error.start}") from None
    return read_lengths(text, "standard input" if piped else str(path))


def _as_json(buckets: Buckets) -> dict[str, object]:
    return {"buckets": list(buckets.lengths), "waste": round(buckets.waste, 6)}


def _print_json(
    what: str,
    observed: Counter[int],
    counts: Counter[int],
    found: list[Buckets],
    even: list[Buckets],
) -> None:
    from json import dumps

    document = {
        what: counts.total(),
        "refused": observed.total() - counts.total(),
        "longest": max(counts),
        "proposed": _as_json(found[-1]),
        "evenly_spaced": _as_json(even[-1]),
        "one_bucket": _as_json(found[0]),
        "by_count": [_as_json(each) for each in found],
    }
    typer.echo(dumps(document))


def _print(
    what: str,
    observed: Counter[int],
    counts: Counter[int],
    found: list[Buckets],
    even: list[Buckets],
) -> None:
    from batcher.cli.results import table, wide_console

    total = counts.total()
    mean = sum(length * seen for length, seen in counts.items()) / total
    typer.echo(f"{total:,} {what}, lengths {min(counts)} to {max(counts)}, {mean:.1f} on average")
    refused = observed.total() - total
    if refused:
        typer.echo(f"{refused:,} longer ones would be refused, and do not count")
    rows = table("buckets", "padding", "evenly spaced", "proposed", texts=0)
    for best, other in zip(found, even, strict=True):
        rows.add_row(
            str(len(best.lengths)),
            f"{best.waste:.1%}",
            f"{other.waste:.1%}",
            ", ".join(map(str, best.lengths)),
        )
    wide_console().print(rows)
    typer.echo(f"buckets: [{', '.join(map(str, found[-1].lengths))}]")
