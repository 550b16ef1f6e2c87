"""Values as the server sends them."""

from __future__ import annotations

import copy

import pytest

MODEL = {
    "name": "embedder",
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
    "totals": {
        "latency_target_missed": 0,
        "ended": [["ok", "", 100]],
        "batches": 10,
        "batch_rows": 100,
    },
    "devices": [
        {
            "device": "cpu",
            "executor_busy_seconds": 1.0,
            "duty_cycle_ratio": 0.87,
            "load_ratio": None,
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
}


@pytest.fixture
def model():
    """A model with some settings of its own; `recent` is merged."""

    def make(recent=None, **fields):
        made = copy.deepcopy(MODEL) | fields
        if recent:
            made["recent"] |= recent
        return made

    return make


@pytest.fixture
def values(model):
    """All values, with these models."""

    def make(*models, **fields):
        return {
            "timestamp_seconds": 1_700_000_000.0,
            "window_seconds": 10,
            "server": {
                "replica": "pod-1",
                "start_id": "a",
                "version": "0.1.0",
                "uptime_seconds": 3600.0,
                "ready": True,
                "draining": False,
                "reason": "",
            },
            "status": {"level": "ok", "text": "1 model, nothing is wrong"},
            "problems": [],
            "models": list(models) or [model()],
            "devices": [],
            "changes": [
                {
                    "timestamp_seconds": 1_700_000_000.0,
                    "severity": "notice",
                    "text": "server: started",
                }
            ],
        } | fields

    return make
