"""The heuristics of the core, and what stands in for each while it is off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ablation_parts import Part, off

from batcher.core.policies.arrivals import ArrivalStats
from batcher.core.times import NEVER_NS

ENDLESS: Final = 1 << 60


def _gives(value: Any) -> Callable[..., Any]:
    """A function of anything that returns this."""
    return lambda *_given, **_named: value


def _ended(arrivals: ArrivalStats, rows: int, _now_ns: int) -> None:
    """In place of `ArrivalStats.ended`: what arrives after the end of a batch is like all else."""
    arrivals.ended_rows = rows


HEURISTICS: Final = (
    # policies
    Part("any wait", ("idle", "closed"), off("policies.waiting:Waiting.until_ns", _gives(None))),
    Part(
        "wait for the next",
        ("idle", "closed"),
        off("policies.arrivals:ArrivalStats.gap", _gives(None)),
    ),
    Part(
        "wait for the next, behind others",
        ("idle", "closed"),
        off("policies.arrivals:ArrivalStats.gap_behind", _gives(None)),
    ),
    Part("four lengths of waits", ("idle", "closed"), off("policies.arrivals.GAPS", (0.8, 0.8))),
    Part(
        "wait for a larger batch",
        ("idle", "closed"),
        off("policies.arrivals:ArrivalStats.steady_rate", property(_gives(0.0))),
    ),
    Part(
        "rate while active",
        ("idle", "closed", "stream"),
        off("policies.arrivals:ArrivalStats.steady_rate", property(lambda each: each.rate)),
    ),
    Part(
        "arrivals after answers",
        ("idle", "closed"),
        off("policies.arrivals:ArrivalStats.ended", _ended),
    ),
    Part(
        "price of time",
        ("stream", "instances", "late"),
        off("policies.backlog:Price.__call__", _gives(0.0)),
    ),
    Part(
        "plan long backlogs coarsely",
        ("stream", "instances"),
        off("policies.backlog.LONG", ENDLESS),
    ),
    Part(
        "room for better ranks",
        ("levels", "late"),
        off("policies.arrivals:ArrivalStats.share_up_to", _gives(0.0)),
    ),
    # batching
    Part("filling up", ("padded",), off("batching.batch_former.fill_up", _gives(None))),
    Part(
        "one candidate of many groups",
        ("groups",),
        off("batching.selection.candidates", lambda _model, ready, *_: ready),
    ),
    Part(
        "turns of what is due first",
        ("groups",),
        off("batching.selection.DUE_FIRST_ONE_IN", ENDLESS),
    ),
    Part(
        "turns of the oldest", ("groups",), off("batching.selection.OLDEST_FIRST_ONE_IN", ENDLESS)
    ),
    Part(
        "efficient batches first",
        ("groups",),
        off("batching.selection._efficiency", lambda ready: [1.0] * len(ready)),
    ),
    Part("kinds", ("groups",), off("batching.selection.MAX_KINDS", 1)),
    Part("prefetch", ("gaps",), off("devices.prefetch.schedule_prefetch", _gives(None))),
    Part(
        "rows of splits fill room", ("oversized",), off("batching.policy_calls.fill", _gives(None))
    ),
    # devices
    Part(
        "batches short for other models",
        ("models",),
        off("batching.batch_former.longest_wait_ns", _gives(None)),
    ),
    Part("use of the device", ("models",), off("handlers.dispatch.charge", _gives(None))),
    # faults
    Part(
        "bisection", ("poison", "failing"), off("faults.bisection:Bisections.begin", _gives(False))
    ),
    Part(
        "failure storm",
        ("failing", "poison"),
        off("faults.bisection:Bisections._begin_storm", _gives(None)),
    ),
    Part(
        "cap on batches",
        ("poison", "failing"),
        off("faults.batch_cap:FaultAwareCap.bounds", _gives(False)),
    ),
    Part(
        "cap that keeps up",
        ("poison", "failing"),
        off("faults.batch_cap:FaultAwareCap.most_rows", lambda cap, *_: cap.safe_rows()),
    ),
    # queueing
    Part(
        "shares of tenants", ("tenants",), off("queueing.tenants:TenantShares.over", _gives(False))
    ),
    Part(
        "what a flood may have beside others",
        ("tenants",),
        off(
            "queueing.tenants:TenantShares._beside_the_others",
            lambda _each, _rates, share, _all: share,
        ),
    ),
    Part(
        "levels gained by waiting",
        ("levels", "late"),
        off("queueing.ranks.promotion_ns_of", _gives(NEVER_NS)),
    ),
    # service times
    Part("margin", ("noise",), off("service_time.estimator.MARGIN_SHARE", 0.0)),
    Part("outliers", ("noise",), off("service_time.drift:Drift.is_off", _gives(False))),
    Part(
        "drift follows other shapes",
        ("noise", "padded"),
        off("service_time.estimator:ServiceTimes.follow", _gives(None)),
    ),
    Part(
        "time of replies",
        ("replies",),
        off("service_time.handling:Handling.observe_replies", _gives(None)),
    ),
)
