"""Is it well? The state of the fleet at one glance, and its goodput and load over time."""

from __future__ import annotations

from dashboard.grafana import GRAY, GREEN, ORANGE, RED, YELLOW, Json, Panel, Query, Row
from dashboard.selectors import (
    ALL_DEAD,
    EVERY,
    FLEET,
    MODEL,
    REFUSED,
    RUNS,
    SERVED,
    STRAY_SHARE,
    TRAFFIC,
)

ALERTS = (
    f'ALERTS{{alertstate="firing",alertname=~"Batcher.*",{FLEET}}}'
    ' or ALERTS{alertstate="firing",alertname=~"Batcher.*",job=~"$scaler|"}'
)
"""Of the fleet, of its scaler, and those of no job."""

SEVERITIES: Json = {
    "type": "value",
    "options": {
        "critical": {"color": RED, "index": 0},
        "warning": {"color": ORANGE, "index": 1},
        "info": {"color": GRAY, "index": 2},
    },
}


def goodput_steps(objective: float) -> tuple[tuple[float | None, str], ...]:
    """Red from the loss on that pages, orange from the one that the objective allows for a day or two."""
    lost = 1 - objective
    return (
        (None, RED),
        (round(1 - 14.4 * lost, 4), ORANGE),
        (round(1 - 3 * lost, 4), YELLOW),
        (objective, GREEN),
    )


def glance(objective: float, set_point: float) -> list[Panel]:
    """The line of numbers."""
    return [
        Panel(
            "Goodput of the worst model",
            "Share of what was asked in the last five minutes that was answered within the latency target: what is"
            " refused, expired, failed or late is missing from it. Below the objective is bad; red is the rate of loss"
            " that pages. Empty: nothing is asked, or nothing can be scraped.",
            [
                Query(
                    f"min(namespace_job_model_version:batcher_goodput:ratio_rate5m{{{MODEL}}})",
                    "goodput",
                    seen=TRAFFIC,
                )
            ],
            "stat",
            "percentunit",
            width=4,
            height=6,
            now=True,
            thresholds=goodput_steps(objective),
            decimals=1,
            maximum=1,
            empty="not known",
        ),
        Panel(
            "Load and replicas",
            f"Load: what is offered, in replicas, over those that are ready. Above 1 requests are late or refused;"
            f" {set_point:g} is where the autoscaler grows the fleet. Ready: replicas that take requests. Not ready: those"
            " that run and take none, and targets that cannot be scraped; anything but 0 is worth a look.",
            [
                Query(
                    f"sum(namespace_job:batcher_load_replicas:sum{{{FLEET}}})"
                    f" / (sum(namespace_job:batcher_replicas_ready:sum{{{FLEET}}}) > 0)",
                    "load",
                    seen=RUNS,
                ),
                Query(
                    f"sum(namespace_job:batcher_replicas_ready:sum{{{FLEET}}})"
                    f" or 0 * sum(namespace_job:batcher_targets:count{{{FLEET}}})",
                    "ready",
                    seen=EVERY,
                ),
                Query(
                    f"sum(namespace_job:batcher_targets:count{{{FLEET}}})"
                    f" - (sum(namespace_job:batcher_replicas_ready:sum{{{FLEET}}}) or vector(0))",
                    "not ready",
                    seen=EVERY,
                ),
            ],
            "stat",
            "percentunit",
            width=5,
            height=6,
            now=True,
            thresholds=((None, GREEN), (set_point, YELLOW), (1, RED)),
            decimals=0,
            styles={
                "ready": {
                    "unit": "short",
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [{"value": None, "color": RED}, {"value": 1, "color": GREEN}],
                    },
                },
                "not ready": {
                    "unit": "short",
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [{"value": None, "color": GREEN}, {"value": 1, "color": ORANGE}],
                    },
                },
            },
            empty="not scraped",
        ),
        Panel(
            "Not in time, of what ended",
            "Share of the requests that ended in the last five minutes and were not answered in time, by reason; the five"
            " largest. Late: answered after the latency target. What callers cancel is left out. What reasons mean:"
            " docs/metrics.md. Empty: nothing was lost, or nothing can be scraped.",
            [
                Query(
                    f'topk(4, sum by (outcome, reason) (rate(batcher_requests_total{{{SERVED},outcome!~"ok|cancelled"}}[5m]))'
                    f" / on () group_left () (sum(rate(batcher_requests_total{{{SERVED}}}[5m])) > 0) > 0)",
                    "{{outcome}}: {{reason}}",
                    seen=REFUSED,
                    stray=STRAY_SHARE,
                ),
                Query(
                    f"sum(rate(batcher_latency_target_missed_total{{{SERVED}}}[5m]))"
                    f" / (sum(rate(batcher_requests_total{{{SERVED}}}[5m])) > 0) > 0",
                    "late",
                    seen=frozenset({"overload"}),
                    stray=STRAY_SHARE,
                ),
            ],
            "bargauge",
            "percentunit",
            width=5,
            height=6,
            now=True,
            thresholds=((None, YELLOW), (0.01, ORANGE), (0.1, RED)),
            decimals=1,
            empty="none seen",
        ),
        Panel(
            "Oldest request",
            "Age of the oldest request that is not answered, over the latency target of its model; the worst of the fleet."
            " Above 1 it is late. It also grows while nothing ends at all, when latency shows nothing: above 15, for a"
            " minute, a batch or the queue is stuck. Empty: no model has a target, or nothing can be scraped.",
            [
                Query(
                    f"max(namespace_job_model_version:batcher_oldest_request_target_ratio:max{{{MODEL}}})",
                    "age over target",
                    seen=RUNS,
                )
            ],
            "stat",
            "suffix:x target",
            width=3,
            height=6,
            now=True,
            thresholds=((None, GREEN), (1, YELLOW), (2, ORANGE), (15, RED)),
            decimals=1,
            empty="not known",
        ),
        Panel(
            "Alerts that fire",
            "Of the fleet, of its scaler, and of this Prometheus. Red pages: requests are lost. Follow a name to the"
            " runbook; its section says the cause and what to do. Empty: none fires.",
            [
                Query(
                    ALERTS,
                    seen=frozenset(
                        {
                            "overload",
                            "stalled",
                            "dead",
                            "all-dead",
                            "scaler-dead",
                            "lost-device",
                        }
                    ),
                )
            ],
            "table",
            width=7,
            height=6,
            now=True,
            minimum=None,
            empty="none fires",
            styles={
                "severity": {
                    "custom.cellOptions": {"type": "color-background", "mode": "basic"},
                    "mappings": [SEVERITIES],
                    "custom.width": 80,
                },
                "alertname": {
                    "links": [
                        {
                            "title": "Runbook",
                            "url": "${runbook}#${__value.text}",
                            "targetBlank": True,
                        }
                    ]
                },
            },
            options={"sortBy": [{"displayName": "severity", "desc": False}]},
            transformations=[
                {
                    "id": "organize",
                    "options": {
                        "excludeByName": dict.fromkeys(
                            ("Time", "Value", "__name__", "alertstate", "namespace", "job"), True
                        ),
                        "indexByName": {"severity": 0, "alertname": 1, "pod": 2, "instance": 3},
                        "renameByName": {},
                    },
                }
            ],
        ),
    ]


def over_time(set_point: float) -> list[Panel]:
    """Goodput and load as graphs."""
    return [
        Panel(
            "Goodput against the objective",
            "Share of what was asked that was answered in time, means of five minutes, by model. A gap: nothing was asked."
            " Short dips spend little of what the objective allows; look for those that stay.",
            [
                Query(
                    f"max by (model, version) (namespace_job_model_version:batcher_goodput:ratio_rate5m{{{MODEL}}})",
                    "{{model}} {{version}}",
                    seen=TRAFFIC,
                ),
                Query("batcher:goodput:objective", "objective", seen=EVERY),
            ],
            unit="percentunit",
            width=12,
            # So that a loss of a hundredth can be seen.
            minimum=None,
            soft_minimum=0.9,
            maximum=1,
            colors={"objective": RED},
            dashed=("objective",),
        ),
        Panel(
            "Load in replicas against replicas",
            f"Load: so many replicas would be just enough for what is offered, refused requests included. Wanted: load over"
            f" {set_point:g}, what the autoscaler aims at. Bad: load above ready. Wanted above ready for longer than a"
            " replica takes to start: the autoscaler is at its maximum, blind, or pods cannot be placed.",
            [
                Query(
                    f"sum(namespace_job:batcher_load_replicas:sum{{{FLEET}}})",
                    "load",
                    seen=RUNS,
                    may=ALL_DEAD,
                ),
                Query(
                    f"ceil(sum(namespace_job:batcher_load_replicas:sum{{{FLEET}}}) / {set_point:g})",
                    "wanted",
                    seen=RUNS,
                    may=ALL_DEAD,
                ),
                Query(
                    f"sum(namespace_job:batcher_replicas_ready:sum{{{FLEET}}})", "ready", seen=RUNS
                ),
                Query(f"sum(namespace_job:batcher_targets:count{{{FLEET}}})", "all", seen=EVERY),
            ],
            unit="short",
            width=12,
            colors={"load": ORANGE, "wanted": YELLOW, "ready": GREEN, "all": GRAY},
            dashed=("wanted", "all"),
            styles={
                name: {"custom.lineInterpolation": "stepAfter"}
                for name in ("wanted", "ready", "all")
            },
        ),
    ]


def row(objective: float, set_point: float) -> Row:
    """The first row."""
    return Row("Is it well?", [*glance(objective, set_point), *over_time(set_point)])
