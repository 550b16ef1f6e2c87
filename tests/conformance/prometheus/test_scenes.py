"""The rules of deploy/monitoring in scenes: a real Prometheus evaluates them over real servers.

Each scene has to raise its alerts in the fault, no page that is wrong, and none of them after it; and what rules ask
for has to be there.
"""

import re
from collections import Counter

import pytest
import yaml
from monitoring.prometheus import RULES
from monitoring.scenes import LASTING, PLANS

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

DOCUMENTS = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(RULES.glob("*.yaml"))]
ALL = [rule for document in DOCUMENTS for group in document["groups"] for rule in group["rules"]]

ELSEWHERE = {
    "kube_horizontalpodautoscaler_status_desired_replicas": "kube-state-metrics",
    "kube_horizontalpodautoscaler_spec_max_replicas": "kube-state-metrics",
    "batcher_trace_spans_total": "a collector: with one that is away, spans would be lost",
}
"""Series that no scene has, and of what they are."""

MACHINE = {"BatcherLoopStalls", "BatcherRefusesBesideIdleDevice", "BatcherFleetFlaps"}
"""Alerts that a busy machine may raise, and be right."""

OFTEN = 3
"""A rule that is wrong is refused more often in any scene: they last for ten evaluations and more."""


@pytest.mark.parametrize("name", PLANS)
def test_the_right_alerts_fire_and_resolve(scenes, name):
    plan, scene = PLANS[name], scenes[name]
    assert not scene.firing("healthy") - MACHINE
    assert plan.alerts <= scene.firing("fault")
    assert plan.alerts <= scene.fired()
    assert scene.fired(severity="critical") <= plan.critical
    assert not scene.firing("after") - MACHINE - LASTING


def test_nothing_fires_while_all_is_well(scenes):
    assert not scenes["normal"].fired() - MACHINE


def test_no_rule_has_an_error(scenes):
    rules = scenes.watching.rules()
    assert len(rules) == len(ALL)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    # Such as samples that were refused because a rule gave two for the same series: that is so at each of its
    # evaluations. Once is a group that a late timer had evaluated twice for the same moment.
    said = re.findall(r'component="rule manager".* name=(\S+)', scenes.watching.log.read_text())
    assert {name: times for name, times in Counter(said).items() if times > OFTEN} == {}
    # One evaluation of everything, of the scrapes of ten servers.
    assert sum(rule["evaluationTime"] for rule in rules) < 5


def anywhere(scenes, expression):
    """Whether it has data in some part of some scene."""
    return any(
        scenes[name].query(expression, part)
        for name in PLANS
        for part in ("healthy", "fault", "after")
    )


@pytest.mark.parametrize("record", [rule["record"] for rule in ALL if "record" in rule])
def test_what_is_recorded_is_there(scenes, record):
    assert anywhere(scenes, record)


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALL if "alert" in rule])
def test_what_an_alert_asks_for_is_there(scenes, alert):
    """Each selector of its query has series, whatever their values are."""
    (rule,) = (rule for rule in ALL if rule.get("alert") == alert)
    selectors = re.findall(
        r"\b((?:batcher|kube|namespace_\w+:batcher)[\w:]*)(\{[^}]*\})?", rule["expr"]
    )
    assert selectors or rule["expr"] == "up"
    for name, matchers in selectors:
        if name not in ELSEWHERE:
            assert anywhere(scenes, name + matchers), name + matchers


def test_recorded_numbers_are_right(scenes):
    """Beside what the callers saw."""
    normal, overload = scenes["normal"], scenes["overload"]
    goodput = "namespace_job_model_version:batcher_goodput:ratio_rate5m"
    ((_, well),) = [each["value"] for each in normal.query(f'{goodput}{{job="{normal.job}"}}')]
    assert float(well) > 0.98
    ((_, ill),) = [each["value"] for each in overload.query(f'{goodput}{{job="{overload.job}"}}')]
    assert 0.2 < float(ill) < 0.7
    load = f'namespace_job:batcher_load_replicas:sum{{job="{overload.job}"}}'
    ((_, replicas),) = [each["value"] for each in overload.query(load)]
    # 130 of 61 a second, of which random arrivals leave some.
    assert 1.7 < float(replicas) < 3.5


def test_the_load_of_a_dead_replica_is_kept_for_a_while(scenes):
    dead = scenes["dead"]
    load = f'namespace_job:batcher_load_replicas:sum{{job="{dead.job}"}}'
    for part in ("healthy", "fault", "after"):
        assert len(dead.query(load, part)) == 1, part


def test_triton_s_names_change_nothing(scenes):
    normal = scenes["normal"]
    assert normal.query(f'nv_inference_request_success{{job="{normal.job}"}}')
    assert not normal.fired(severity="critical")
