"""What Grafana would show of a scene: the queries of a dashboard, with its variables as Grafana puts them in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.durations import divided, milliseconds, scaled_expression
from monitoring.prometheus import EVALUATE, FACTOR, SCRAPE
from monitoring.scenes import Scene

FILE = Path(__file__).parents[3] / "deploy" / "monitoring" / "dashboard.json"
RATE_INTERVAL = f"{4 * milliseconds(SCRAPE)}ms"
"""Grafana's `$__rate_interval` is at least four times the scrape interval of its data source."""


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    row: str
    panel: dict[str, Any]
    ref: str
    expr: str

    @property
    def name(self) -> str:
        """Row, panel and letter."""
        return f"{self.row} / {self.panel['title']} / {self.ref}"


def panels(path: Path = FILE) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel with the title of its row."""
    row = ""
    for panel in json.loads(path.read_text("utf-8"))["panels"]:
        if panel["type"] != "row":
            yield row, panel
            continue
        row = panel["title"]
        for inside in panel["panels"]:
            yield row, inside


def targets(path: Path = FILE) -> list[Target]:
    """Every query of every panel."""
    return [
        Target(row, panel, target["refId"], target["expr"])
        for row, panel in panels(path)
        for target in panel["targets"]
    ]


def interpolated(expr: str, values: Mapping[str, str | list[str]]) -> str:
    """The query with variables replaced: values escaped for a regular expression, several of them as alternatives.

    A value of `.*` is All. Raises KeyError for a variable that is not known.
    """

    def one(value: str) -> str:
        # As Grafana: `\\` because the matcher is a quoted text.
        return re.sub(r"[\\^$*+?.()|{}\[\]]", lambda found: "\\\\" + found[0], value)

    def of(found: re.Match[str]) -> str:
        value = values[found[1]]
        if value == ".*" or found[1].startswith("__"):
            return str(value)
        if isinstance(value, str):
            return one(value)
        return f"({'|'.join(one(each) for each in value)})" if len(value) > 1 else one(value[0])

    return re.sub(r"\$([A-Za-z_]\w*)", of, expr)


def expression(expr: str, scene: Scene, **chosen: str | list[str]) -> str:
    """A query of the dashboard for a scene, and in its time."""
    values: dict[str, str | list[str]] = {
        "namespace": "ml",
        "job": scene.job,
        "model": ".*",
        "replica": ".*",
        "scaler": f"{scene.job}-scaler",
        "fleet": ".*",
        "__rate_interval": RATE_INTERVAL,
        **chosen,
    }
    return scaled_expression(interpolated(expr, values), FACTOR)


def step() -> str:
    """The step of range queries in scenes."""
    return divided(EVALUATE, FACTOR)
