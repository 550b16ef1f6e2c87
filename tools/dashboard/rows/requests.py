"""Requests: traffic and latency, hops against their budget, the queue, refusals and failures, tenants."""

from __future__ import annotations

from dashboard.grafana import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED, YELLOW, Panel, Query, Row
from dashboard.selectors import RATE, REFUSED, RUNS, SERVED, STRAY_RATE, TRAFFIC

OK = f'sum by (model) (rate(batcher_requests_total{{{SERVED},outcome="ok"}}[{RATE}]))'
MISSED = f"sum by (model) (rate(batcher_latency_target_missed_total{{{SERVED}}}[{RATE}]))"


def quantile(share: float, family: str, by: str, matchers: str) -> str:
    """A quantile of a histogram; nothing where nothing was counted."""
    return (
        f"histogram_quantile({share:g}, sum by ({by}, le) (rate({family}_bucket{{{matchers}}}[{RATE}])))"
        " >= 0"
    )


def mean(family: str, by: str, matchers: str) -> str:
    """The mean of a histogram; nothing where nothing was counted."""
    return (
        f"sum by ({by}) (rate({family}_sum{{{matchers}}}[{RATE}]))"
        f" / (sum by ({by}) (rate({family}_count{{{matchers}}}[{RATE}])) > 0)"
    )


def traffic() -> Row:
    """What is asked, and how long answers take."""
    answered = f'{SERVED},outcome="ok"'
    return Row(
        "Traffic and latency",
        [
            Panel(
                "Requests by outcome",
                "Requests that ended, a second. Only green is goodput: late was answered after the latency target,"
                " rejected and expired were not answered for want of capacity or time, failed is the fault of the model or"
                " the server. Cancelled is the caller's wish, but callers that give up look so, too.",
                [
                    Query(
                        f"clamp_min(sum({OK}) - (sum({MISSED}) or 0 * sum({OK})), 0)",
                        "in time",
                        seen=RUNS,
                    ),
                    Query(f"sum({MISSED})", "late", seen=RUNS),
                    Query(
                        "sum by (outcome) (rate(batcher_requests_total{"
                        f'{SERVED},outcome!="ok"}}[{RATE}]))',
                        "{{outcome}}",
                        seen=RUNS,
                    ),
                ],
                unit="reqps",
                width=12,
                stacked=True,
                colors={
                    "in time": GREEN,
                    "late": YELLOW,
                    "rejected": ORANGE,
                    "expired": PURPLE,
                    "failed": RED,
                    "cancelled": GRAY,
                },
            ),
            Panel(
                "Latency of answers",
                "From the arrival of a request to the end of its reply, of answers alone: read it beside the outcomes, as"
                " what was refused is not in it. Bad: p99 above the dashed line, the latency target. p99 far above p50: bursts, other models on the"
                " device, or a slow replica. Values are as exact as the buckets, about a third.",
                [
                    *(
                        Query(
                            quantile(
                                share,
                                "batcher_request_duration_seconds",
                                "model, version",
                                answered,
                            ),
                            f"{{{{model}}}} p{share * 100:g}",
                            seen=TRAFFIC,
                        )
                        for share in (0.5, 0.9, 0.99)
                    ),
                    Query(
                        f"max by (model) (batcher_latency_target_seconds{{{SERVED}}})",
                        "{{model}} target",
                        seen=RUNS,
                    ),
                ],
                unit="s",
                width=12,
                colors={"/ target$/": RED},
                dashed=("/ target$/",),
            ),
        ],
    )


def hops() -> Row:
    """Where the time of requests goes, against what it may take."""
    return Row(
        "Hops and their budget",
        [
            Panel(
                "Where the time goes",
                "Mean time that requests spend in each stage, on top of each other: the height is the mean duration."
                " Growing queue: load. Growing execute: the device. Admission, scatter or reply of more than some"
                " milliseconds: the sidecar itself, or slow callers.",
                [
                    Query(
                        mean("batcher_stage_duration_seconds", "stage", SERVED),
                        "{{stage}}",
                        seen=TRAFFIC,
                    )
                ],
                unit="s",
                stacked=True,
                colors={
                    "admission": PURPLE,
                    "queue": ORANGE,
                    "gather": YELLOW,
                    "execute": BLUE,
                    "scatter": GRAY,
                    "reply": GREEN,
                },
            ),
            Panel(
                "Over budget, by hop",
                "Share of the answers in which a hop took more than its share in `budget`. A hop over budget makes no"
                " answer late by itself; when answers are late, it says which one to look at first. Empty: no model has"
                " a budget, or nothing is answered.",
                [
                    Query(
                        "sum by (hop) (rate(batcher_budget_exceeded_total{"
                        f"{SERVED}}}[{RATE}]))"
                        f' / on () group_left () (sum(rate(batcher_requests_total{{{SERVED},outcome="ok"}}[{RATE}])) > 0)',
                        "{{hop}}",
                        seen=TRAFFIC,
                    )
                ],
                unit="percentunit",
                empty="none seen",
            ),
            Panel(
                "Late answers, by the hop to blame",
                "Answers after the latency target, a second, by the hop that was furthest over its share. queue: more"
                " replicas, or fewer requests. execute: smaller batches, or a slow device. upstream: the time was gone"
                " before the request came.",
                [
                    Query(
                        f"sum by (hop) (rate(batcher_late_answers_total{{{SERVED}}}[{RATE}])) > 0",
                        "{{hop}}",
                        seen=frozenset({"overload"}),
                        stray=STRAY_RATE,
                    )
                ],
                unit="reqps",
                stacked=True,
                empty="none seen",
            ),
        ],
    )


def queue() -> Row:
    """What waits."""
    return Row(
        "Queue",
        [
            Panel(
                "Oldest request over the target, worst replicas",
                "Age over the latency target: five replicas and models. It grows while nothing ends, when nothing else moves."
                " Saw teeth below 1 are well. Above 1: late. A straight rise: a batch hangs on that replica. 15 for a minute"
                " raises an alert.",
                [
                    Query(
                        "topk(5, max by (instance, pod, model)"
                        f" (batcher_oldest_request_target_ratio{{{SERVED}}}))",
                        "{{replica}} {{model}}",
                        seen=RUNS,
                    )
                ],
                unit="none",
                width=6,
                thresholds=((None, "transparent"), (1, YELLOW), (15, RED)),
                lines=True,
            ),
            Panel(
                "Age of the oldest request, by state",
                "The worst replica. Waiting: in the queue; more than `batching.limit` cannot be well. Executing: in a batch;"
                " more than twice the usual time of a batch means that the executor hangs.",
                [
                    Query(
                        f"max by (state) (batcher_oldest_request_age_seconds{{{SERVED}}})",
                        "{{state}}",
                        seen=RUNS,
                    )
                ],
                unit="s",
                width=6,
                colors={"waiting": ORANGE, "executing": BLUE},
            ),
            Panel(
                "Requests that wait and execute",
                "All replicas. Requests that wait while few execute: an instance is down, or a batch does not end. A queue"
                " that stays long is overload; early refusal keeps it short, so look at the refusals, too.",
                [
                    Query(f"sum(batcher_queue_requests{{{SERVED}}})", "waiting", seen=RUNS),
                    Query(f"sum(batcher_executing_requests{{{SERVED}}})", "executing", seen=RUNS),
                ],
                width=6,
                colors={"waiting": ORANGE, "executing": BLUE},
            ),
            Panel(
                "Backlog of the fullest replica",
                "Predicted time that one instance needs for what waits, by model. More than the latency target: what"
                " comes now is late or refused. One replica far above the mean: the balancer is uneven.",
                [
                    Query(
                        f"max by (model) (batcher_queue_backlog_seconds{{{SERVED}}})",
                        "{{model}} worst",
                        seen=RUNS,
                    ),
                    Query(
                        f"avg by (model) (batcher_queue_backlog_seconds{{{SERVED}}})",
                        "{{model}} mean",
                        seen=RUNS,
                    ),
                ],
                unit="s",
                width=6,
            ),
        ],
    )


def refusals() -> Row:
    """Requests without an answer, and why."""
    return Row(
        "Refusals and failures",
        [
            Panel(
                "Refused and expired, by reason",
                "Requests a second. predicted_late, queue_* and queue_timeout: load, or slow batches. caller_deadline,"
                " deadline_too_short: callers want it sooner than a batch takes. no_instance, unavailable: instances are"
                " down or load. invalid, unknown_model, too_many_*: a caller is wrong. All reasons: docs/metrics.md.",
                [
                    Query(
                        "sum by (reason) (rate(batcher_requests_total{"
                        f'{SERVED},outcome=~"rejected|expired"}}[{RATE}])) > 0',
                        "{{reason}}",
                        seen=REFUSED,
                        stray=STRAY_RATE,
                    )
                ],
                unit="reqps",
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "What predictions that refused are blamed on",
                "Requests a second that were refused on arrival because they could not be answered in time. queue_ahead:"
                " load. margin: batches take unevenly long. service_time: one batch alone takes longer than the target"
                " or limit. deadline: than the caller's deadline. All but the last beside an idle device are a fault.",
                [
                    Query(
                        f"sum by (cause) (rate(batcher_predicted_refusals_total{{{SERVED}}}[{RATE}])) > 0",
                        "{{cause}}",
                        seen=REFUSED,
                        stray=STRAY_RATE,
                    )
                ],
                unit="reqps",
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "Failed and cancelled, by reason",
                "Requests a second. input: a row makes its batch fail. instance_down: an instance was lost with what it"
                " executed. backend_*: the server behind the executor. memory: the device has none for the batch."
                " internal: a defect of batcher; report it. caller_cancelled: callers that give up.",
                [
                    Query(
                        "sum by (outcome, reason) (rate(batcher_requests_total{"
                        f'{SERVED},outcome=~"failed|cancelled"}}[{RATE}])) > 0',
                        "{{outcome}}: {{reason}}",
                    )
                ],
                unit="reqps",
                stacked=True,
                empty="none seen",
            ),
        ],
    )


def tenants() -> Row:
    """Who gets what."""
    tenant = f"batcher_tenant_requests_total{{{SERVED}}}"
    return Row(
        "Tenants",
        [
            Panel(
                "Answers by tenant",
                "Requests a second that were answered, by tenant of `queue.tenants`; other are all others. Under overload"
                " they have to stand in the ratio of the weights, unless a tenant asks for less. Empty: no model names"
                " tenants.",
                [
                    Query(
                        "sum by (tenant) (rate(batcher_tenant_requests_total{"
                        f'{SERVED},outcome="ok"}}[{RATE}]))',
                        "{{tenant}}",
                        seen=frozenset({"normal"}),
                    )
                ],
                unit="reqps",
                width=12,
                stacked=True,
                empty="no tenants",
            ),
            Panel(
                "Without an answer, by tenant",
                "Share of a tenant's requests that were refused, expired or failed. One tenant alone: it asks for more than"
                " its share, and that is what shares are for. All of them: overload.",
                [
                    Query(
                        "sum by (tenant) (rate(batcher_tenant_requests_total{"
                        f'{SERVED},outcome!~"ok|cancelled"}}[{RATE}]))'
                        f" / (sum by (tenant) (rate({tenant}[{RATE}])) > 0)",
                        "{{tenant}}",
                        seen=frozenset({"normal"}),
                    )
                ],
                unit="percentunit",
                width=12,
                empty="no tenants",
            ),
        ],
        collapsed=True,
    )
