"""Which buckets to pad to: the ones with the least padding for the lengths that were observed.

Requests of one bucket are padded to its length, so the padded volume of some buckets is, for each
length, its bucket times how often it was seen. The last bucket must hold the longest. Then the best
ends are found length by length: the best k buckets for the first j lengths end with a bucket that
starts behind some i, and before it with the best k - 1 buckets for the first i.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from batcher.errors import InputError

MOST_LENGTHS: Final = 8192
"""The most distinct lengths; more are rounded up to multiples of two, four, ..."""

LONGEST: Final = 1_000_000_000
"""The longest axis that a configuration can name."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Some buckets, and the share of the padded volume of the observed lengths that is padding."""

    lengths: tuple[int, ...]
    waste: float


def read_lengths(text: str, source: str) -> Counter[int]:
    """Length -> how often, from lines `LENGTH` or `LENGTH,COUNT`; empty lines are skipped.

    A first line that starts with a letter is a heading. Raises `InputError` naming the line.
    """
    counts: Counter[int] = Counter()
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        whole = [int(cell) if cell.isascii() and cell.isdecimal() else 0 for cell in cells]
        if number == 1 and cells[0][:1].isalpha():
            continue
        if len(whole) > 2 or not all(1 <= each <= LONGEST for each in whole):
            raise InputError(
                f"{source}, line {number}: got {','.join(row)!r}; allowed: a length from 1 to"
                f" {LONGEST}, or a length and how often, such as 17 or 17,320"
            )
        counts[whole[0]] += whole[1] if len(whole) == 2 else 1
    if not counts:
        raise InputError(f"{source}: holds no lengths")
    return counts


def served(counts: Mapping[int, int], longest: int, multiple: int = 1) -> Counter[int]:
    """The lengths that fit the last bucket, if that is to hold `longest`.

    Raises `InputError` where none does.
    """
    last = _up(longest, multiple)
    found = Counter({length: seen for length, seen in counts.items() if length <= last})
    if not found:
        raise InputError(
            f"--longest: got {longest}; allowed: at least {min(counts)}, the shortest length"
        )
    return found


def waste(counts: Mapping[int, int], buckets: Sequence[int]) -> float:
    """The share of the padded volume that is padding; the last bucket holds every length."""
    lengths, seen = _arrays(counts)
    ends = np.array(buckets)[np.searchsorted(buckets, lengths)]
    return 1.0 - float(lengths @ seen) / float(ends @ seen)


def propose(
    counts: Mapping[int, int], most: int, *, multiple: int = 1, longest: int | None = None
) -> list[Buckets]:
    """The best 1, 2, ... `most` buckets, all multiples of `multiple`.

    The last one holds `longest` (or the longest observed). There are fewer where there are fewer
    lengths. With more than `MOST_LENGTHS` lengths the buckets are close to the best ones.
    """
    top = max(longest or 0, *counts)
    step = multiple
    ends = _ends(counts, step, top)
    while len(ends) > MOST_LENGTHS:
        step *= 2
        ends = _ends(counts, step, top)
    lengths, seen = _arrays(ends)
    before = np.concatenate([[0.0], np.cumsum(seen)])
    count = len(lengths)
    # volume[j]: the least padded volume of the first j lengths with so many buckets.
    volume = np.full(count + 1, np.inf)
    volume[0] = 0.0
    starts: list[list[int]] = []
    found: list[Buckets] = []
    for _ in range(min(most, count)):
        grown = np.full(count + 1, np.inf)
        start = [0] * (count + 1)
        for j in range(1, count + 1):
            costs = volume[:j] + lengths[j - 1] * (before[j] - before[:j])
            start[j] = int(np.argmin(costs))
            grown[j] = costs[start[j]]
        volume = grown
        starts.append(start)
        buckets = _walk_back(lengths, starts)
        found.append(Buckets(buckets, waste(counts, buckets)))
    return found


def evenly_spaced(
    counts: Mapping[int, int], count: int, *, multiple: int = 1, longest: int | None = None
) -> Buckets:
    """As many buckets at equal distances up to the longest: the choice without any observation."""
    top = max(longest or 0, *counts)
    ends = {_up(-(-top * place // count), multiple) for place in range(1, count + 1)}
    buckets = tuple(sorted(ends))
    return Buckets(buckets, waste(counts, buckets))


def _ends(counts: Mapping[int, int], step: int, top: int) -> dict[int, int]:
    """How often each possible end of a bucket is the next one; the last holds `top`."""
    ends: Counter[int] = Counter({_up(top, step): 0})
    for length, seen in counts.items():
        ends[_up(length, step)] += seen
    return ends


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _arrays(counts: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array(sorted(counts), np.float64)
    return lengths, np.array([counts[int(length)] for length in lengths], np.float64)


def _walk_back(lengths: np.ndarray, starts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    ends: list[int] = []
    place = len(lengths)
    for start in reversed(starts):
        ends.append(int(lengths[place - 1]))
        place = start[place]
    return tuple(reversed(ends))
