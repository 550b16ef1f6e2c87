"""How requests ended, and where their time went."""

from __future__ import annotations

from batcher.core.commands import Outcome, RefusalCause
from batcher.telemetry.budget import Hop
from batcher.telemetry.families.family import LATENCY, MODEL, Family, Stage, Values, one_of
from batcher.telemetry.reasons import ENDS, UnreadReason

REQUESTS = Family(
    "batcher_requests",
    "counter",
    "requests",
    (*MODEL, "outcome", "reason"),
    "Requests that ended, by outcome (ok, rejected, expired, cancelled, failed) and reason. Requests "
    "that were refused before their model was known have empty model and version.",
    values={
        "outcome": one_of(*Outcome),
        "reason": one_of(*dict.fromkeys((*(reason for _, reason in ENDS), *UnreadReason))),
        "model": Values("as everywhere; empty where the model is not known", bound="models"),
        "version": Values("as everywhere; empty where the model is not known", bound="models"),
    },
)
TENANT_REQUESTS = Family(
    "batcher_tenant_requests",
    "counter",
    "requests",
    (*MODEL, "tenant", "outcome"),
    "Requests that ended, by tenant and outcome; absent for a model whose queue.tenants names none.",
    values={
        "tenant": Values(
            "names of `models[].queue.tenants`; `other` are all other tenants and requests without one",
            bound="tenants of one model",
        ),
        "outcome": one_of(*Outcome),
    },
)
PREDICTED_REFUSALS = Family(
    "batcher_predicted_refusals",
    "counter",
    "requests",
    (*MODEL, "cause"),
    "Requests that a prediction refused (reasons predicted_late and deadline_too_short), by what that "
    "is blamed on: queue_ahead (what waits and runs before it), margin (without the margin for slow "
    "batches it would be in time), service_time (one batch alone takes longer than the target or limit), "
    "deadline (one batch alone takes longer than the caller's deadline).",
    values={"cause": one_of(*RefusalCause)},
)
REQUEST_DURATION = Family(
    "batcher_request_duration_seconds",
    "histogram",
    "seconds",
    (*MODEL, "outcome"),
    "Time from the arrival of a request to the end of its reply.",
    LATENCY,
    values={"outcome": one_of(*Outcome)},
)
STAGE_DURATION = Family(
    "batcher_stage_duration_seconds",
    "histogram",
    "seconds",
    (*MODEL, "stage"),
    "Time that a request spent in each stage: admission, queue, gather, execute, scatter, reply. A "
    "request that expires or is cancelled in the queue counts there with the time it waited.",
    LATENCY,
    values={"stage": one_of(*Stage)},
)
LATENCY_TARGET_MISSED = Family(
    "batcher_latency_target_missed",
    "counter",
    "requests",
    MODEL,
    "Requests that were answered, but after the latency target; those that were not answered count "
    "in batcher_requests_total alone.",
)

BUDGET_EXCEEDED = Family(
    "batcher_budget_exceeded",
    "counter",
    "requests",
    (*MODEL, "hop"),
    "Answers in which a hop took longer than its share in budget; absent for hops without a share.",
    values={"hop": one_of(*Hop)},
)
LATE_ANSWERS = Family(
    "batcher_late_answers",
    "counter",
    "requests",
    (*MODEL, "hop"),
    "Answers after the latency target, by the hop that is to blame: the one furthest over its share. Hops "
    "without a share in budget have equal parts of what the others leave, so without a budget it is the "
    "longest one. With budget.upstream the target counts from what the caller says.",
    values={"hop": one_of(*Hop)},
)
UPSTREAM_IGNORED = Family(
    "batcher_upstream_claims_ignored",
    "counter",
    "requests",
    MODEL,
    "Requests whose caller said something impossible of the time that it had spent before: no number, more "
    "than an hour, or a start in the future.",
)

FAMILIES = (
    REQUESTS,
    TENANT_REQUESTS,
    PREDICTED_REFUSALS,
    REQUEST_DURATION,
    STAGE_DURATION,
    LATENCY_TARGET_MISSED,
    BUDGET_EXCEEDED,
    LATE_ANSWERS,
    UPSTREAM_IGNORED,
)
