"""Durations and sizes with units: text in the file, integers inside.

A bare number is refused, because `50` could mean seconds or milliseconds; only `0` needs no unit. Durations become nanoseconds and sizes bytes, exactly: a value finer
than that is an error, never rounded.
"""

from __future__ import annotations

import re
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DURATION_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
}
_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1_000,
    "KB": 1_000,
    "MB": 1_000**2,
    "GB": 1_000**3,
    "KiB": 1_024,
    "MiB": 1_024**2,
    "GiB": 1_024**3,
}
LONGEST_NS: Final = 365 * 24 * _DURATION_UNITS["h"]
LARGEST_BYTES: Final = 1 << 50


class LimitName(StrEnum):
    """Values of `limit` that are no durations."""

    DEADLINE = "deadline"
    """Only the caller's deadline counts."""
    TARGET = "target"
    """As long as the target."""


Limit: TypeAlias = int | LimitName | None
"""How long after its arrival an answer to a request is of use: nanoseconds, a name, or the default."""

_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", re.ASCII)
_DURATION_ALLOWED: Final = "a number with a unit (ns, us, ms, s, m or h), such as 50ms, 2s or 100us"
_SIZE_ALLOWED: Final = "a number with a unit (B, kB, MB, GB, KiB, MiB or GiB), such as 64MiB"


def parse_duration(value: object) -> int:
    """Nanoseconds of a text such as `50ms`, `1.5s` or `100us`; 0 also without a unit.

    Raises ValueError, its message being what is allowed.
    """
    if isinstance(value, str):
        # The micro sign is what documentation often has.
        value = value.strip().replace("µs", "us")
    return _parse(value, _DURATION_UNITS, LONGEST_NS, _DURATION_ALLOWED, "a nanosecond")


def parse_size(value: object) -> int:
    """Bytes of a text such as `64MiB` or `1.5GB`; 0 also without a unit.

    Raises ValueError, its message being what is allowed.
    """
    if isinstance(value, str):
        value = value.strip()
    return _parse(value, _SIZE_UNITS, LARGEST_BYTES, _SIZE_ALLOWED, "a byte")


def _parse(value: object, units: dict[str, int], most: int, allowed: str, finest: str) -> int:
    if value in (0, "0") and not isinstance(value, bool):
        return 0
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(allowed)
    amount = Fraction(match[1]) * units[match[2]]
    if amount.denominator != 1:
        raise ValueError(f"nothing finer than {finest}")
    if amount > most:
        raise ValueError(f"at most {_format(most, units)}")
    return int(amount)


def format_duration(duration_ns: int) -> str:
    """The shortest text that `parse_duration` reads back as `duration_ns`."""
    return _format(duration_ns, _DURATION_UNITS) if duration_ns else "0ms"


def format_size(nbytes: int) -> str:
    """The shortest text that `parse_size` reads back as `nbytes`."""
    return _format(nbytes, _SIZE_UNITS) if nbytes else "0B"


def _format(amount: int, units: dict[str, int]) -> str:
    """Write `amount` in the unit that needs the fewest characters, the larger unit in a tie."""
    texts = []
    for unit, scale in sorted(units.items(), key=lambda item: (-item[1], item[0])):
        value = Fraction(amount, scale)
        decimal = f"{float(value):.3f}".rstrip("0").rstrip(".")
        if Fraction(decimal) == value:
            texts.append(decimal + unit)
    return min(texts, key=len)


def _duration_above_zero(value: object) -> int:
    duration_ns = parse_duration(value)
    if duration_ns == 0:
        raise ValueError("longer than 0, such as 50ms or 2s")
    return duration_ns


def _duration_or_null(value: object) -> int | None:
    return None if value is None else _duration_above_zero(value)


def _format_duration_or_null(duration_ns: int | None) -> str | None:
    return None if duration_ns is None else format_duration(duration_ns)


def parse_limit(value: object) -> Limit:
    """Nanoseconds of a duration above zero, or a name; null stays None.

    Raises ValueError, its message being what is allowed.
    """
    if value is None:
        return None
    if isinstance(value, str) and value in set(LimitName):
        return LimitName(value)
    try:
        return _duration_above_zero(value)
    except ValueError as error:
        raise ValueError(f"{error}; or {' or '.join(LimitName)}") from None


def format_limit(limit: Limit) -> str | None:
    """The text that `parse_limit` reads back as `limit`; None for the default."""
    if limit is None:
        return None
    return limit.value if isinstance(limit, LimitName) else format_duration(limit)


def _size_above_zero(value: object) -> int:
    nbytes = parse_size(value)
    if nbytes == 0:
        raise ValueError("more than 0, such as 64MiB")
    return nbytes


def _schema(units: dict[str, int], example: str, *, zero: bool) -> dict[str, Any]:
    text: dict[str, Any] = {
        "type": "string",
        "pattern": rf"^\d+(\.\d+)? ?({'|'.join(units)})$",
        "examples": [example],
    }
    return {"anyOf": [text, {"const": 0}]} if zero else text


Duration = Annotated[
    int,
    BeforeValidator(_duration_above_zero),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_schema(_DURATION_UNITS, "50ms", zero=False)),
]
"""A duration above zero: `50ms` in the file, int nanoseconds as the attribute."""

DurationOrNull = Annotated[
    int | None,
    BeforeValidator(_duration_or_null),
    PlainSerializer(_format_duration_or_null, return_type=str | None),
    WithJsonSchema({"anyOf": [_schema(_DURATION_UNITS, "50ms", zero=False), {"type": "null"}]}),
]
"""A duration above zero or null, where the default is a duration: pydantic writes a default with its
unit only where its type is not a union."""

DurationOrZero = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_schema(_DURATION_UNITS, "2ms", zero=True)),
]
"""A duration, 0 included: `2ms` or `0` in the file, int nanoseconds as the attribute."""

LimitValue = Annotated[
    Limit,
    BeforeValidator(parse_limit),
    PlainSerializer(format_limit, return_type=str | None),
    WithJsonSchema(
        {
            "anyOf": [
                _schema(_DURATION_UNITS, "2s", zero=False),
                {"enum": [name.value for name in LimitName]},
                {"type": "null"},
            ]
        }
    ),
]
"""A duration above zero, `deadline`, `target`, or null."""

Size = Annotated[
    int,
    BeforeValidator(_size_above_zero),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(_schema(_SIZE_UNITS, "64MiB", zero=False)),
]
"""A size above zero: `64MiB` in the file, int bytes as the attribute."""
