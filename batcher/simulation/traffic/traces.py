"""Recorded arrivals: a file with one time in seconds per line, or a CSV with a timestamp column.

A timestamp is a number (seconds; milliseconds, microseconds or nanoseconds since 1970 are recognized
by their size) or a date and a time of day, with up to nine digits after the second, with or without
a zone. A trace is sorted by time and starts at 0.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from batcher.clock import SECOND
from batcher.errors import InputError
from batcher.simulation.traffic.arrivals import Recorded, Times

COLUMNS: Final = ("timestamp", "arrival_timestamp", "arrival_time", "arrival", "time", "ts")
"""Headings that name the column of arrivals, whatever their case; the first one found counts."""

_DATE: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))? ?(Z|UTC|[+-]\d\d:?\d\d)?",
    re.ASCII,
)
_NUMBER: Final = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?([eE][+-]?\d+)?", re.ASCII)


def read_trace(path: Path) -> Recorded:
    """The arrivals of a file. Raises `InputError` with the line and what is allowed there."""
    times: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            times.extend(_times(path, lines))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a text file: {error}") from None
    if not times:
        raise InputError(f"{path}: holds no arrivals")
    ordered: Times = np.sort(np.array(times, dtype=np.int64))
    return Recorded.of((ordered - ordered[0]) / SECOND)


def _times(path: Path, lines: Iterator[str]) -> Iterator[int]:
    rows = csv.reader(lines)
    read: Callable[[str], int] | None = None
    column = 0
    for row in rows:
        if not row or (len(row) == 1 and (not row[0].strip() or row[0].startswith("#"))):
            continue
        if read is None:
            found = _column(row)
            if found is not None:
                column = found
                read = timestamp_ns
                continue
            if len(row) > 1 and not _is_timestamp(row[0]):
                known = ", ".join(COLUMNS)
                raise InputError(
                    f"{path}, line {rows.line_num}: no column is an arrival time; needed: one of"
                    f" {known} as a heading; got {', '.join(row)}"
                )
            read = timestamp_ns
        try:
            yield read(row[column])
        except (IndexError, ValueError):
            got = repr(row[column]) if column < len(row) else f"{len(row)} columns"
            raise InputError(
                f"{path}, line {rows.line_num}: got {got}; allowed: seconds such as 12.25, or a date"
                " and a time such as 2023-11-16 18:17:03.9799600"
            ) from None


def _column(row: list[str]) -> int | None:
    headings = [heading.strip().lower() for heading in row]
    return next((headings.index(name) for name in COLUMNS if name in headings), None)


def _is_timestamp(text: str) -> bool:
    try:
        timestamp_ns(text)
    except ValueError:
        return False
    return True


def timestamp_ns(text: str) -> int:
    """A timestamp in nanoseconds: of seconds, of an epoch in any common unit, or of a date.

    Raises ValueError.
    """
    text = text.strip()
    date = _DATE.fullmatch(text)
    if date is None:
        return _number_ns(text)
    day, clock, fraction, zone = date.groups()
    offset = "+00:00" if zone in (None, "Z", "UTC") else zone
    whole = datetime.fromisoformat(f"{day}T{clock}{offset}").astimezone(UTC)
    seconds = round((whole - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds * SECOND + int((fraction or "0").ljust(9, "0"))


def _number_ns(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError(text)
    sign, whole, fraction, exponent = match.groups()
    if exponent:
        return round(float(text) * SECOND)
    # An epoch of this century has 13 digits in milliseconds, 16 in micro- and 19 in nanoseconds.
    scale = {13: 10**3, 16: 10**6, 19: 10**9}.get(len(whole), 1)
    return int(f"{sign}{whole}{(fraction or '').ljust(9, '0')[:9]}") // scale
