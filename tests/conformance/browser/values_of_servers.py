"""Values of servers that are hard to bring about: many models, all states, names with markup."""

from __future__ import annotations

import math

MARKUP = '<img src=x onerror="document.title=1">"\'&amp;</script><b>'


def model(number, **fields):
    wave = [0.02 + 0.015 * math.sin(second / 20 + number) for second in range(300)]
    made = {
        "name": f"model-{number}",
        "version": "1",
        "state": "ready",
        "reason": "",
        "level": "ok",
        "problems": [],
        "target_seconds": 0.05,
        "age_seconds": 0.0123,
        "oldest_request_target_ratio": 0.246,
        "queue_requests": 3,
        "executing_requests": 8,
        "generation": 1,
        "instances": {"up": 1},
        "totals": {"latency_target_missed": 0, "ended": [], "batches": 0, "batch_rows": 0},
        "devices": [
            {
                "device": "cuda:0",
                "executor_busy_seconds": 1.0,
                "duty_cycle_ratio": 0.87,
                "load_ratio": 0.5,
            }
        ],
        "recent": {
            "window_seconds": 10,
            "arrived": 120.4,
            "answered": 118.0,
            "late": 0.0,
            "refused": 0.0,
            "expired": 0.0,
            "cancelled": 0.0,
            "failed": 0.0,
            "reasons": [],
            "latency_p50_seconds": 0.0121,
            "latency_p99_seconds": 0.0412,
            "batches": 11.0,
            "batch_rows": 11.2,
            "batch_sizes": [1, 2, 4, 9],
            "batch_bounds": [1, 2, 4, 8],
        },
        "second": {"age_seconds": 0.02, "arrived": 120, "unserved": 0},
    } | fields
    history = {
        "name": made["name"],
        "version": made["version"],
        "age_seconds": wave,
        "arrived": [100 + 30 * math.sin(second / 30) for second in range(300)],
        "unserved": [0] * 300,
    }
    return made, history


def values(*models, **fields):
    made = {
        "timestamp_seconds": 1_700_000_000.0,
        "window_seconds": 10,
        "server": {
            "replica": "pod-1",
            "start_id": "a",
            "version": "0.1.0",
            "uptime_seconds": 360_000.0,
            "ready": True,
            "draining": False,
            "reason": "",
            "desired_ratio": 0.83,
        },
        "status": {"level": "ok", "text": f"{len(models)} models, nothing is wrong"},
        "problems": [],
        "models": [each for each, _ in models],
        "history": [history for _, history in models],
        "devices": [
            {
                "device": "cuda:0",
                "slots": 2,
                "batches_in_flight": 1,
                "busy_seconds": 12.0,
                "duty_cycle_ratio": 0.87,
                "batch_fill_ratio": 0.61,
                "load_ratio": 0.83,
                "headroom_ratio": 1.2,
                "statistics": {
                    "device": "cuda:0",
                    "state": "ok",
                    "reason": "",
                    "failures": {},
                    "age_seconds": 0.4,
                    "product": "NVIDIA H100 80GB HBM3",
                    "mig": False,
                    "utilization_ratio": 0.93,
                    "sm_utilization_ratio": 0.61,
                    "memory_used_bytes": 40 << 30,
                    "memory_total_bytes": 80 << 30,
                    "power_watts": 512.5,
                    "temperature_celsius": 61.0,
                    "sm_clock_hertz": 1_980_000_000,
                    "throttle_reasons": {"thermal": True, "power": False},
                    "xid_events": {"13": 2},
                },
            }
        ],
        "changes": [
            {"timestamp_seconds": 1_699_999_000.0, "severity": "notice", "text": "server: started"}
        ],
    }
    return made | fields


def nothing_known(number, state, level, reason):
    """A model that never served: what is not known is None."""
    made, history = model(
        number,
        name=f"{state}-model",
        state=state,
        level=level,
        reason=reason,
        problems=[f"{state}: {reason}"],
        target_seconds=None,
        age_seconds=None,
        oldest_request_target_ratio=None,
        queue_requests=None,
        executing_requests=None,
        devices=[],
        recent=None,
        second=None,
    )
    return made, history | {"age_seconds": [], "arrived": [], "unserved": []}


def every_state():
    """A server on a bad day."""
    late = model(
        2, name="reranker", level="critical", age_seconds=0.31, oldest_request_target_ratio=6.2
    )
    late[0]["problems"] = [
        "oldest request is 310 ms old, 6.2 x the target",
        "34 % of requests refused",
    ]
    late[0]["recent"] |= {
        "late": 3.0,
        "refused": 60.0,
        "failed": 0.4,
        "latency_p99_seconds": 0.22,
        "reasons": [
            ["rejected", "predicted_late", 58.2],
            ["rejected", "queue_requests", 1.8],
            ["failed", "device", 0.4],
            ["cancelled", "caller_cancelled", 2.0],
        ],
    }
    late[1]["age_seconds"][120:180] = [0.4] * 60
    late[1]["age_seconds"][30:50] = [None] * 20
    late[1]["unserved"][120:] = [40] * 180
    return values(
        model(1, name="embedder"),
        late,
        nothing_known(3, "failed", "critical", "cannot load model.onnx: no such file"),
        nothing_known(4, "loading", "notice", "an instance is loaded"),
        model(5, name="no-target", target_seconds=None, oldest_request_target_ratio=None),
        model(6, name="x" * 128, version="20261130-0f3a9c2b7e5d4418"),
        status={"level": "critical", "text": "reranker: 34 % of requests refused, and 2 more"},
        problems=[
            {
                "severity": "critical",
                "text": "34 % of requests refused",
                "model": "reranker",
                "version": "1",
            },
            {
                "severity": "critical",
                "text": "failed: cannot load",
                "model": "failed-model",
                "version": "1",
            },
            {
                "severity": "warning",
                "text": "load for 1.7 replicas like this one",
                "model": "",
                "version": "",
            },
        ],
        changes=[
            {"timestamp_seconds": 1_699_999_990.0 - 100 * n, "severity": severity, "text": text}
            for n, (severity, text) in enumerate(
                (
                    (
                        "warning",
                        "settings by the configuration file rejected: models[0].batching: "
                        + "x" * 200,
                    ),
                    (
                        "notice",
                        "settings by an admin call applied: embedder/1 batching.target_p99: 60ms -> 50ms",
                    ),
                    ("critical", "failed-model: failed: cannot load model.onnx"),
                    ("ok", "reranker: instance 0 is up"),
                    ("notice", "server: started, batcher 0.1.0"),
                )
            )
        ],
    )


def many():
    """Fifty models, one of which is not well."""
    return values(
        *(
            model(n, **({"level": "warning", "problems": ["slow"]} if n == 33 else {}))
            for n in range(50)
        )
    )


def markup():
    """Whatever is text in an event, with markup in it."""
    made = model(
        1,
        name=MARKUP,
        version=MARKUP,
        state=MARKUP,
        reason=MARKUP,
        problems=[MARKUP],
        devices=[
            {
                "device": MARKUP,
                "executor_busy_seconds": 1.0,
                "duty_cycle_ratio": 0.5,
                "load_ratio": None,
            }
        ],
    )
    made[0]["recent"]["reasons"] = [["rejected", MARKUP, 1.0]]
    made_up = values(
        made,
        status={"level": "critical", "text": MARKUP},
        problems=[{"severity": "critical", "text": MARKUP, "model": MARKUP, "version": ""}] * 2,
        devices=[{"device": MARKUP, "batches_in_flight": 1}],
        changes=[{"timestamp_seconds": 1.7e9, "severity": "notice", "text": MARKUP}],
    )
    made_up["server"] |= {"replica": MARKUP, "version": MARKUP}
    return made_up
