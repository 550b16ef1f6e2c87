"""Rules whose every duration is shorter by one factor, so that their scenes are."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from typing import Any

UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
TOKENS = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|\#[^\n]*)"""
    r"|(?P<name>[A-Za-z_][\w:]*)"
    rf"|(?P<duration>{DURATION})(?![\w.])"
    r"|(?P<number>\d[\w.]*)"
)
"""What may hold something that looks like a duration and is none, before what is one."""

SETTING = re.compile(r"vector\((?P<value>[\d.]+)\)")


def milliseconds(duration: str) -> int:
    """What a duration of Prometheus, such as `1h30m`, is. Raises ValueError for anything else."""
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"{duration!r} is no duration")
    parts = re.findall(r"(\d+)(ms|[smhdwy])", duration)
    return sum(int(count) * UNITS_MS[unit] for count, unit in parts)


def divided(duration: str, factor: float) -> str:
    """A duration over the factor, in whole milliseconds, of which it is at least one unless it was 0."""
    whole = milliseconds(duration)
    return f"{max(round(whole / factor), min(whole, 1))}ms"


def scaled_expression(expression: str, factor: float) -> str:
    """A query with its ranges, offsets and steps divided by the factor; names, texts and numbers stay."""

    def shorter(found: re.Match[str]) -> str:
        duration = found["duration"]
        return divided(duration, factor) if duration else found[0]

    return TOKENS.sub(shorter, expression)


def scaled_rules(
    document: dict[str, Any], factor: float, real: Collection[str] = ()
) -> dict[str, Any]:
    """A rule file with every duration divided: `interval`, `for`, queries, and settings in seconds.

    The settings named in `real` stay: they are of something that goes on in its own time.
    """
    scaled = copy.deepcopy(document)
    for group in scaled["groups"]:
        for key in ("interval", "query_offset"):
            if key in group:
                group[key] = divided(group[key], factor)
        for rule in group["rules"]:
            for key in ("for", "keep_firing_for"):
                if key in rule:
                    rule[key] = divided(rule[key], factor)
            rule["expr"] = scaled_expression(rule["expr"], factor)
            setting = SETTING.fullmatch(rule["expr"])
            name = rule.get("record", "")
            if setting and name.endswith(":seconds") and name not in real:
                rule["expr"] = f"vector({float(setting['value']) / factor:g})"
    return scaled
