"""The dashboard: what is committed is what is described, and it asks for metrics and labels that there are."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from batcher.scaler.families import FAMILIES as OF_SCALER
from batcher.telemetry.families import FAMILIES

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).parents[3] / "bench" / "load"))

import generate_dashboard
from dashboard.grafana import COLUMNS, Panel, Query, Row, rows_json
from dashboard.panels import SET_POINT, objective, rows
from monitoring.dashboard import interpolated

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
RULES = [
    rule
    for path in sorted((MONITORING / "rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
LABELS = {family.exported_name: set(family.labels) for family in (*FAMILIES, *OF_SCALER)}
OF_TARGETS = {"namespace", "job", "instance", "pod"}
BUILT_IN = {"__rate_interval"}
SELECTOR = re.compile(r"\b((?:batcher|namespace|ALERTS|up)[\w:]*)\{([^{}]*)\}")
NAME = re.compile(r"\b(?:batcher|namespace_\w+:batcher)[\w:]*")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def every_panel():
    for panel in DASHBOARD["panels"]:
        yield from (panel, *panel["panels"]) if panel["type"] == "row" else (panel,)


PANELS = [panel for panel in every_panel() if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ANNOTATIONS = [each["expr"] for each in DASHBOARD["annotations"]["list"]]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def labels_of(name):
    """The labels that a metric, or what is recorded, has beside those of its target."""
    if name == "ALERTS":
        return {"alertname", "alertstate", "severity", "model", "version", "fleet"}
    if name in RECORDS:
        level = name.split(":")[0]
        return set(level.split("_")) - OF_TARGETS
    if name in LABELS:
        return LABELS[name]
    short = re.sub(r"_(sum|count|bucket)$", "", name)
    return LABELS[short] | ({"le"} if name.endswith("_bucket") else set())


def values_of(label, expr):
    """What a label may hold in the metrics of a query, where that is a fixed set."""
    metrics = {re.sub(r"_(sum|count|bucket)$", "", name) for name in NAME.findall(expr)}
    return {
        value
        for family in (*FAMILIES, *OF_SCALER)
        if family.exported_name in metrics and label in family.labels
        for value in family.of_label(label).names
    }


def test_what_is_committed_is_what_is_described():
    assert generate_dashboard.generated() == generate_dashboard.FILE.read_text("utf-8")


@pytest.mark.parametrize("expr", [*QUERIES, *ANNOTATIONS])
def test_queries_ask_for_metrics_and_labels_that_there_are(expr):
    selectors = SELECTOR.findall(expr)
    names = set(NAME.findall(expr))
    labels = OF_TARGETS | {label for name in names for label in labels_of(name)} | {"fleet"}
    for name, matchers in selectors:
        for label, sign, value in MATCHER.findall(matchers):
            assert label in OF_TARGETS | labels_of(name), (name, label)
            assert "$" not in value or sign == "=~"
    for by in re.findall(r"\bby \(([^)]*)\)", expr):
        assert set(by.split(", ")) <= labels | {"le"}, by


@pytest.mark.parametrize("expr", [*QUERIES, *ANNOTATIONS])
def test_values_that_a_query_names_are_those_of_the_label(expr):
    known = {
        (family.exported_name, label): set(family.of_label(label).names)
        for family in (*FAMILIES, *OF_SCALER)
        for label in family.labels
    }
    for name, matchers in SELECTOR.findall(expr):
        for label, _, value in MATCHER.findall(matchers):
            values = known.get((name, label))
            if values:
                assert "$" in value or set(value.split("|")) <= values, (name, label, value)


@each_panel
def test_every_panel_says_how_to_read_it(panel):
    assert len(panel["description"]) > 60
    assert panel["fieldConfig"]["defaults"]["unit"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)
    asked = {(target["instant"], target["range"]) for target in panel["targets"]}
    # Numbers and tables are of the end of the range: else they would show what is gone.
    now = panel["type"] in {"stat", "bargauge", "table"}
    assert asked == {(now, not now)}


@each_panel
def test_legends_and_series_that_are_styled_are_of_the_queries(panel):
    names = set()
    for target in panel["targets"]:
        legend = target["legendFormat"]
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        by = re.findall(r"\bby \(([^)]*)\)", target["expr"])
        if "label_replace" in target["expr"]:
            by = [f"{each}, replica" for each in by if "instance, pod" in each]
        assert not shown or any(shown <= set(each.split(", ")) for each in by)
        names.add(legend)
        for label in shown:
            of_label = values_of(label, target["expr"])
            names |= of_label | {f"fleet {value}" for value in of_label}
    if panel["type"] != "table":
        styled = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
        for series in styled:
            found = re.compile(
                series.strip("/") if series.startswith("/") else f"^{re.escape(series)}$"
            )
            assert any(map(found.search, names)), series


def test_panels_fill_the_grid_without_overlap():
    taken, ids = set(), set()
    for panel in every_panel():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert panel["id"] not in ids
        taken |= cells
        ids.add(panel["id"])
    assert {x for x, _ in taken} == set(range(COLUMNS))


def test_a_line_that_is_not_full_is_refused():
    query = Query("up")
    with pytest.raises(ValueError, match="not full"):
        rows_json([Row("r", [Panel("a", "", [query], width=12)])])
    with pytest.raises(ValueError, match="does not fit"):
        rows_json([Row("r", [Panel("a", "", [query], width=16)] * 2)])


def test_variables_are_used_and_defined():
    text = json.dumps(DASHBOARD)
    used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", text)) - BUILT_IN - {"__all", "__value"}
    assert used == set(VARIABLES)


@pytest.mark.parametrize(
    "name", [name for name, each in VARIABLES.items() if each["type"] == "query"]
)
def test_variables_ask_for_labels_that_there_are(name):
    found = re.fullmatch(
        r"label_values\((\w+)(?:\{(.*)\})?, (\w+)\)", VARIABLES[name]["query"]["query"]
    )
    metric, matchers, label = found.groups()
    asked = {label, *(each[0] for each in MATCHER.findall(matchers or ""))}
    assert asked <= OF_TARGETS | LABELS[metric]


def test_numbers_are_those_of_the_rules():
    assert re.fullmatch(r"vector\((.*)\)", RECORDS["batcher:goodput:objective"])[1] == str(
        objective()
    )
    for path in (ROOT / "deploy" / "scaling").rglob("scaled-object.yaml"):
        (trigger,) = yaml.safe_load(path.read_text("utf-8"))["spec"]["triggers"]
        metadata = trigger["metadata"]
        assert float(metadata.get("target") or metadata["threshold"]) == SET_POINT


def test_it_fits_a_config_map_that_is_applied():
    """`kubectl apply` keeps what it has applied in an annotation, and those may have 256 KiB in all."""
    text = generate_dashboard.FILE.read_text("utf-8")
    assert len(json.dumps(text).encode()) < 240 * 1024


def test_links_lead_to_the_runbook():
    url = "https://git.example.com/docs/runbook.md"
    made = json.loads(generate_dashboard.generated(url))
    (runbook,) = [each for each in made["templating"]["list"] if each["name"] == "runbook"]
    assert runbook["current"]["value"] == runbook["query"] == url
    assert made["links"][0]["url"] == "${runbook}"


def test_scenes_of_queries_are_there():
    from monitoring.scenes import PLANS

    for row in rows():
        for panel in row.panels:
            for query in panel.queries:
                assert query.seen | query.may <= set(PLANS)
                assert not query.seen & query.may


@pytest.mark.parametrize(
    ("expr", "values", "becomes"),
    [
        ('x{job=~"$job"}', {"job": "ml/ranker"}, 'x{job=~"ml/ranker"}'),
        ('x{a=~"$a"}', {"a": "10.0.0.1:80"}, r'x{a=~"10\\.0\\.0\\.1:80"}'),
        ('x{a=~"$a"}', {"a": ["b.c", "d"]}, r'x{a=~"(b\\.c|d)"}'),
        ('x{a=~"$a|"}', {"a": ".*"}, 'x{a=~".*|"}'),
        ("rate(x[$__rate_interval])", {"__rate_interval": "200s"}, "rate(x[200s])"),
    ],
)
def test_variables_are_put_in_as_grafana_does(expr, values, becomes):
    assert interpolated(expr, values) == becomes


def test_a_variable_that_is_not_known_is_an_error():
    with pytest.raises(KeyError):
        interpolated("$nothing", {})
