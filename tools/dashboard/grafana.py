"""What a dashboard consists of, and the JSON of it (Grafana 10 to 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dashboard.selectors import by_replica

SCHEMA_VERSION = 38
"""That of Grafana 10.0. Later ones bring an older dashboard up to date when they read it."""

COLUMNS = 24
"""Of Grafana's grid."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GRAY = (
    "green",
    "yellow",
    "orange",
    "red",
    "blue",
    "purple",
    "#8e8e8e",
)

Json = dict[str, Any]
Thresholds = Sequence[tuple[float | None, str]]
"""Pairs of a value and the color from it on; the first has None and is the color below."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, and the scenes of `bench/load/monitoring` in whose fault it has to have data.

    In the fault of every other scene it has to have none, but for those in `may`, where that depends on the moment.
    With `{{replica}}` in the legend, which takes the labels `instance` and `pod`, a replica is called by its pod, or its
    address without Kubernetes. A machine that stands still makes requests late: values up to `stray` are no fault anywhere.
    """

    expr: str
    legend: str = ""
    seen: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    stray: float = 0.0
    heatmap: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: what it shows, and how. `now` asks for the end of the time range alone, not for all of it."""

    title: str
    description: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    now: bool = False
    thresholds: Thresholds = ()
    lines: bool = False
    """Whether thresholds are drawn as lines."""
    minimum: float | None = 0
    soft_minimum: float = 0
    """Where the axis of a graph begins unless values are lower; only without `minimum`."""
    maximum: float | None = None
    decimals: int | None = None
    stacked: bool = False
    bars: bool = False
    table_legend: bool = False
    """Whether the legend is a table beside the graph, the highest last value first: for many series."""
    colors: Mapping[str, str] = field(default_factory=dict)
    """By name of the series, or a regular expression between slashes, as in the next three."""
    dashed: Sequence[str] = ()
    """Series that are limits or targets: dashed lines without an area."""
    styles: Mapping[str, Json] = field(default_factory=dict)
    """By name of the series: other properties of its field."""
    right: Mapping[str, str] = field(default_factory=dict)
    """Series on an axis to the right, and their unit."""
    empty: str = ""
    """What is said in place of no data."""
    options: Mapping[str, Any] = field(default_factory=dict)
    transformations: Sequence[Json] = ()
    links: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its panels, which fill lines of `COLUMNS` from left to right."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that holds values of a label."""

    name: str
    label: str
    query: str
    description: str
    several: bool = False

    def json(self) -> Json:
        """As in `templating.list`."""
        everything: Json = {"text": ["All"], "value": ["$__all"]} if self.several else {}
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "datasource": SOURCE,
            "definition": self.query,
            "query": {"query": self.query, "refId": f"variable-{self.name}"},
            # When the time range changes: what is gone by now was there then.
            "refresh": 2,
            "sort": 1,
            "regex": "",
            "hide": 0,
            "multi": self.several,
            "includeAll": self.several,
            # Also for series that have no such label.
            **({"allValue": ".*"} if self.several else {}),
            "current": everything,
            "options": [],
            "skipUrlSync": False,
        }


def override(series: str, properties: Mapping[str, Any]) -> Json:
    """An override of the field that is called so, or of those that a regular expression between slashes finds."""
    matcher = "byRegexp" if series.startswith("/") else "byName"
    return {
        "matcher": {"id": matcher, "options": series},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _overrides(panel: Panel) -> list[Json]:
    found: dict[str, Json] = {}
    for series, color in panel.colors.items():
        found.setdefault(series, {})["color"] = {"mode": "fixed", "fixedColor": color}
    for series in panel.dashed:
        found.setdefault(series, {}).update(
            {
                "custom.lineStyle": {"fill": "dash", "dash": [8, 8]},
                "custom.fillOpacity": 0,
                "custom.lineWidth": 2,
                "custom.stacking": {"mode": "none", "group": "A"},
            }
        )
    for series, unit in panel.right.items():
        found.setdefault(series, {}).update({"custom.axisPlacement": "right", "unit": unit})
    for series, properties in panel.styles.items():
        found.setdefault(series, {}).update(properties)
    return [override(series, properties) for series, properties in found.items()]


def _graph(panel: Panel) -> Json:
    """`fieldConfig.defaults.custom` of a graph over time."""
    return {
        "drawStyle": "bars" if panel.bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if panel.bars else 25 if panel.stacked else 5,
        "showPoints": "never",
        # A gap is a gap: no line is drawn over what is not known.
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if panel.lines else "off"},
        "axisSoftMin": panel.soft_minimum,
    }


def _legend(panel: Panel) -> Json:
    calcs = ["lastNotNull", "max"]
    if panel.table_legend:
        return {
            "showLegend": True,
            "displayMode": "table",
            "placement": "right",
            "calcs": calcs,
            "sortBy": "Max",
            "sortDesc": True,
        }
    return {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}


def _options(panel: Panel) -> Json:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    basic: Mapping[str, Json] = {
        "timeseries": {
            "legend": _legend(panel),
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {
            "reduceOptions": reduced,
            "colorMode": "background",
            "graphMode": "none",
            "justifyMode": "center",
            "textMode": "auto",
            "orientation": "auto",
        },
        "bargauge": {
            "reduceOptions": reduced,
            "displayMode": "basic",
            "orientation": "horizontal",
            "showUnfilled": False,
            "minVizHeight": 16,
            "minVizWidth": 8,
            "valueMode": "color",
        },
        "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
        "heatmap": {
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Blues", "exponent": 0.5, "steps": 64},
            "cellGap": 1,
            "yAxis": {"axisPlacement": "left", "unit": panel.unit, "decimals": 0},
            # `show` is of Grafana 10, and `mode` of later ones.
            "tooltip": {"show": True, "mode": "single", "yHistogram": True},
            "legend": {"show": True},
            "filterValues": {"le": 1e-9},
        },
    }
    return {**basic[panel.kind], **panel.options}


def _target(panel: Panel, place: int, query: Query) -> Json:
    form = "heatmap" if query.heatmap else "table" if panel.kind == "table" else "time_series"
    return {
        "datasource": SOURCE,
        "refId": chr(ord("A") + place),
        "editorMode": "code",
        "expr": by_replica(query.expr) if "{{replica}}" in query.legend else query.expr,
        "legendFormat": "{{le}}" if query.heatmap else query.legend or "__auto",
        "instant": panel.now,
        "range": not panel.now,
        "format": form,
    }


def panel_json(panel: Panel, number: int, x: int, y: int) -> Json:
    """A panel at its place in the grid."""
    steps = panel.thresholds or ((None, GREEN),)
    by_threshold = panel.kind in {"stat", "bargauge"}
    defaults: Json = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if by_threshold else "palette-classic"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": color} for value, color in steps],
        },
        "custom": _graph(panel) if panel.kind == "timeseries" else {},
        "mappings": [],
        "links": list(panel.links),
    }
    for key, value in (
        ("min", panel.minimum),
        ("max", panel.maximum),
        ("decimals", panel.decimals),
        ("noValue", panel.empty or None),
    ):
        if value is not None:
            defaults[key] = value
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [_target(panel, place, query) for place, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
        "transformations": list(panel.transformations),
    }


def rows_json(rows: Sequence[Row]) -> list[Json]:
    """All rows with their panels below each other. Raises ValueError where a line is not filled."""
    found: list[Json] = []
    y, number = 0, 1
    for row in rows:
        head: Json = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        found.append(head)
        number, y, x = number + 1, y + 1, 0
        inside = []
        for panel in row.panels:
            inside.append(panel_json(panel, number, x, y))
            number, x = number + 1, x + panel.width
            if x == COLUMNS:
                x, y = 0, y + panel.height
            elif x > COLUMNS:
                raise ValueError(f"{row.title}: {panel.title!r} does not fit its line")
        if x:
            raise ValueError(f"{row.title}: the last line is not full")
        if row.collapsed:
            head["panels"] = inside
        else:
            found += inside
    return found
