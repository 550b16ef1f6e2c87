"""What the demo found out, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from client import Embedding, Measurement
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

NEAREST = 3
"""Lines shown for each query."""
_BAR = 36


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement and how to call it."""

    batching: str
    measurement: Measurement
    batches: Mapping[int, int]
    """Sentences in a batch -> how many such batches ran meanwhile."""


def nearest(
    queries: Sequence[str], found: Embedding, lines: Sequence[str], embeddings: Embedding
) -> RenderableType:
    """For each query the lines whose embeddings are nearest to its own, with their cosines."""
    parts: list[RenderableType] = []
    for query, vector in zip(queries, found, strict=True):
        cosines = embeddings @ vector
        parts.append(Text(query, style="bold"))
        # A query that is itself a line of the file would only find itself.
        order = [place for place in np.argsort(-cosines) if lines[place] != query][:NEAREST]
        table = Table.grid(padding=(0, 2))
        for place in order:
            table.add_row(f"  {cosines[place]:.2f}", Text(lines[place]))
        parts.append(table if order else Text("  (no other line)"))
    return Group(*parts)


def batch_sizes(batches: Mapping[int, int]) -> RenderableType:
    """A bar for every range of batch sizes, and the mean."""
    ranges: dict[tuple[int, int], int] = {}
    for size, count in batches.items():
        # 1, 2, 3-4, 5-8, 9-16, ...: powers of two end a range.
        top = 1 << (size - 1).bit_length()
        key = (top // 2 + 1, top)
        ranges[key] = ranges.get(key, 0) + count
    most = max(ranges.values(), default=0)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(justify="right")
    for (low, high), count in sorted(ranges.items()):
        sizes = f"{low}" if low == high else f"{low}-{high}"
        noun = "sentence " if sizes == "1" else "sentences"
        table.add_row(f"{sizes} {noun}", str(count), Text("█" * max(1, _BAR * count // most)))
    return Group(table, Text(f"{_mean(batches):.1f} sentences in a batch on average"))


def comparison(rows: Sequence[Row]) -> RenderableType:
    """Throughput and latency of every measurement, one line each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    headings = ("sentences/s", "p50 ms", "p95 ms", "p99 ms", "mean batch")
    for _ in headings:
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", *headings, style="bold")
    for row in rows:
        measured = row.measurement
        table.add_row(
            f"{row.batching}, {measured.in_flight} in flight",
            f"{measured.throughput:.0f}",
            *(f"{measured.percentile(share):.1f}" for share in (50, 95, 99)),
            f"{_mean(row.batches):.1f}",
        )
    return table


def _mean(batches: Mapping[int, int]) -> float:
    return sum(size * count for size, count in batches.items()) / max(1, sum(batches.values()))
