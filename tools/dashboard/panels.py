"""The dashboard: its variables, annotations, links and rows."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from dashboard.grafana import BLUE, RED, SCHEMA_VERSION, SOURCE, Json, Row, Variable, rows_json
from dashboard.rows import requests, well, work
from dashboard.selectors import FLEET, REPLICA

RULES = Path(__file__).parents[2] / "deploy" / "monitoring" / "rules"
RUNBOOK = "docs/runbook.md"
SET_POINT = 0.8
"""Of the load of a replica: what the manifests of `deploy/scaling` aim at, and docs/scaling.md recommends."""

VARIABLES = (
    Variable("namespace", "Namespace", "label_values(batcher_draining, namespace)", "", True),
    Variable(
        "job",
        "Fleet (job)",
        'label_values(batcher_draining{namespace=~"$namespace"}, job)',
        "The scrape job of the fleet.",
    ),
    Variable("model", "Model", f"label_values(batcher_queue_requests{{{FLEET}}}, model)", "", True),
    Variable(
        "replica", "Replica", f"label_values(batcher_draining{{{FLEET}}}, instance)", "", True
    ),
    Variable(
        "scaler",
        "Scaler (job)",
        "label_values(batcher_scaler_streams, job)",
        "The scrape job of `batcher scaler`.",
    ),
    Variable(
        "fleet",
        "Fleet of the scaler",
        'label_values(batcher_scaler_replicas{job=~"$scaler"}, fleet)',
        "The fleet's name in the scaler's file.",
        True,
    ),
)


def objective() -> float:
    """What the rules have as `batcher:goodput:objective`."""
    document = yaml.safe_load((RULES / "recording.yaml").read_text("utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    (expr,) = (rule["expr"] for rule in rules if rule.get("record") == "batcher:goodput:objective")
    found = re.fullmatch(r"vector\(([\d.]+)\)", expr)
    if found is None:
        raise SystemExit(f"the objective is no number: {expr}")
    return float(found[1])


def rows() -> list[Row]:
    """From top to bottom."""
    return [
        well.row(objective(), SET_POINT),
        requests.traffic(),
        requests.hops(),
        requests.queue(),
        work.batches(),
        requests.refusals(),
        work.devices(),
        work.scaling(SET_POINT),
        requests.tenants(),
        work.process(),
    ]


def annotations() -> list[Json]:
    """Marks in every graph: alerts while they fire, and starts of processes."""
    return [
        {
            "name": "Alerts",
            "datasource": SOURCE,
            "enable": True,
            "hide": False,
            "iconColor": RED,
            "expr": f'ALERTS{{alertstate="firing",alertname=~"Batcher.*",severity!="info",{FLEET}}}',
            "step": "30s",
            "titleFormat": "{{alertname}}",
            "textFormat": "{{pod}} {{instance}} {{model}}",
            "tagKeys": "severity",
        },
        {
            "name": "Starts and changes of settings",
            "datasource": SOURCE,
            "enable": True,
            "hide": False,
            "iconColor": BLUE,
            # The value is the time of the mark, in milliseconds.
            "expr": f"batcher_settings_last_change_timestamp_seconds{{{REPLICA}}} * 1000",
            "useValueForTime": True,
            "step": "60s",
            "titleFormat": "started, or settings changed",
            "textFormat": "{{pod}} {{instance}}",
            "tagKeys": "",
        },
    ]


def variables(runbook: str) -> list[Json]:
    """The data source, the labels, and the address of the runbook, which is not shown."""
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Prometheus",
            "query": "prometheus",
            "regex": "",
            "hide": 0,
            "multi": False,
            "includeAll": False,
            "refresh": 1,
            "current": {},
            "options": [],
            "skipUrlSync": False,
        },
        *(variable.json() for variable in VARIABLES),
        {
            "type": "textbox",
            "name": "runbook",
            "label": "Address of the runbook",
            "query": runbook,
            "hide": 2,
            "current": {"text": runbook, "value": runbook, "selected": True},
            "options": [{"text": runbook, "value": runbook, "selected": True}],
            "skipUrlSync": False,
        },
    ]


def dashboard(runbook: str = "") -> Json:
    """All of it."""
    return {
        "uid": "batcher-fleet",
        "title": "batcher: a fleet",
        "description": "Is the fleet well, and if not, why? Reads the metrics of batcher and the recording rules of deploy/monitoring.",
        "tags": ["batcher", "inference"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        # One cursor in all graphs.
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "timezone": "",
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "links": [
            {
                "type": "link",
                "title": "Runbook",
                "url": "${runbook}",
                "icon": "doc",
                "tooltip": "What alerts mean, and what to do",
                "targetBlank": True,
                "asDropdown": False,
                "includeVars": False,
                "keepTime": False,
                "tags": [],
            },
        ],
        "annotations": {"list": annotations()},
        "templating": {"list": variables(runbook or RUNBOOK)},
        "panels": rows_json(rows()),
    }
