from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from batcher.runtime.health import HealthReport, ModelHealth, ModelState
from batcher.web import build_app

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Gauge("depth", "How deep.", registry=registry).set(3)
    return registry


@pytest.fixture
def reports():
    """What the health callable answers with; a test replaces the last one."""
    return [HealthReport(ready=True)]


@pytest.fixture
def app(registry, reports):
    return build_app(registry, lambda: reports[-1])


async def test_metrics_are_prometheus_text_by_default(app, ask):
    answer = await ask(app, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.body == "# HELP depth How deep.\n# TYPE depth gauge\ndepth 3.0\n"


async def test_metrics_are_openmetrics_where_accept_names_it(app, ask):
    answer = await ask(app, "/metrics", accept=f"{OPENMETRICS},text/plain;q=0.5")
    assert answer.headers["content-type"].startswith(OPENMETRICS)
    (family,) = text_string_to_metric_families(answer.body)
    assert family.samples[0].value == 3


async def test_an_invalid_accept_header_gets_metrics_all_the_same(app, ask):
    answer = await ask(app, "/metrics", accept="application/openmetrics-text; version=new")
    assert answer.status == 200
    assert "\ndepth 3.0\n" in answer.body


async def test_healthz_is_ok_whatever_readiness_says(app, ask, reports):
    reports.append(HealthReport(ready=False, reason="draining"))
    answer = await ask(app, "/healthz")
    assert (answer.status, answer.body) == (200, "ok\n")


async def test_healthz_fails_where_only_a_restart_helps(app, ask, reports):
    reports.append(HealthReport(ready=False, reason="the scheduler failed", live=False))
    answer = await ask(app, "/healthz")
    assert (answer.status, answer.body) == (503, "the scheduler failed\n")


async def test_readiness_follows_the_report(app, ask, reports):
    assert (await ask(app, "/readyz")).status == 200
    reports.append(
        HealthReport(
            ready=False,
            models=(
                ModelHealth("a", "1", True),
                ModelHealth("b", "2", False, "no file", ModelState.FAILED),
            ),
            reason="b is not ready",
        )
    )
    answer = await ask(app, "/readyz")
    assert answer.status == 503
    assert json.loads(answer.body) == {
        "ready": False,
        "reason": "b is not ready",
        "live": True,
        "models": [
            {
                "name": "a",
                "version": "1",
                "ready": True,
                "reason": "",
                "state": "ready",
                "required": True,
                "instances": [],
            },
            {
                "name": "b",
                "version": "2",
                "ready": False,
                "reason": "no file",
                "state": "failed",
                "required": True,
                "instances": [],
            },
        ],
    }


async def test_the_index_links_pages_that_exist(app, ask):
    index = await ask(app, "/")
    assert index.headers["content-type"].startswith("text/html")
    links = [part.split('"')[0] for part in index.body.split('href="')[1:]]
    assert links[1:] == ["metrics", "readyz", "healthz", "v1/load", "v1/live"]
    for link in links[1:4]:
        assert (await ask(app, f"/{link}")).status == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/no", 404), ("POST", "/", 405)])
async def test_other_paths_and_methods_are_refused(app, ask, method, path, status):
    assert (await ask(app, path, method=method)).status == status


async def test_an_unknown_path_is_told_where_inference_is(app, ask):
    answer = await ask(app, "/v2/models/hello/infer", method="POST")
    assert answer.status == 404
    assert "inference is gRPC" in answer.body
