"""The rules of deploy/monitoring: names, severities, the runbook, and the object made of them."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from batcher.scaler.families import FAMILIES as OF_SCALER
from batcher.telemetry.families import FAMILIES
from batcher.telemetry.reasons import CALLER_ERRORS, UnreadReason

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import generate_prometheus_rule

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"

PATHS = sorted((MONITORING / "rules").glob("*.yaml"))
RULES = [
    rule
    for path in PATHS
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in RULES if "record" in rule}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
SEVERITIES = {"critical", "warning", "info"}
BY_NAME = {family.exported_name: family for family in (*FAMILIES, *OF_SCALER)}
OF_TARGETS = {"namespace", "job", "instance", "pod", "le"}

every_alert = pytest.mark.parametrize("name", sorted(ALERTS))
every_rule = pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: rule.get("alert", rule.get("record"))
)


def family(name):
    return BY_NAME.get(name) or BY_NAME[re.sub(r"_(sum|count|bucket)$", "", name)]


def sections():
    """Heading -> text, of the sections of the runbook that are called like an alert."""
    parts = re.split(r"^### (Batcher\w+)$", RUNBOOK, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_alert_has_a_section_and_every_section_an_alert():
    assert sorted(sections()) == sorted(ALERTS)


@every_alert
def test_an_alert_says_what_it_is_and_where_to_read_on(name):
    alert = ALERTS[name]
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    notes = alert["annotations"]
    assert notes.keys() == {"runbook_url", "summary", "description"}
    assert notes["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert len(notes["summary"]) < 130


@every_alert
def test_a_section_says_what_to_do(name):
    text = sections()[name]
    assert f"**{ALERTS[name]['labels']['severity']}**" in text.partition("\n\n")[2][:40]
    for part in ("**Causes**", "**Now**", "**Afterwards**"):
        assert part in text, part


def test_names_are_told_apart():
    names = [rule.get("alert", rule.get("record")) for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_are_level_metric_and_operations(name):
    level, metric, _ = name.split(":")
    if level == "batcher":
        assert RECORDS[name]["expr"].startswith("vector(")
        return
    assert re.fullmatch(r"namespace_job(_(model_version|device|fleet)(_(stage|hop))?)?", level)
    assert metric.startswith("batcher_")


def test_every_record_is_read_or_told():
    """By an alert or another rule, or it is in the runbook's table for dashboards and autoscalers."""
    read = " ".join(rule["expr"] for rule in RULES)
    for name in RECORDS:
        assert name in RUNBOOK or re.search(rf"{name}(?![\w:])", read), name


@every_rule
def test_metrics_and_labels_exist(rule):
    expression = re.sub(r"\w+:\w+:\w+", "", rule["expr"])
    for name, matchers in re.findall(r"\b(batcher_[a-z_0-9]+)(?:\{([^}]*)\})?", expression):
        of_family = family(name)
        for label, operator, value in re.findall(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"', matchers):
            assert label in of_family.labels, (name, label)
            known = {str(each) for each in of_family.of_label(label).names}
            for part in value.split("|") if "~" in operator else [value]:
                assert not known or part in known, (name, label, part)
    for recorded in re.findall(r"\w+:\w+:\w+", rule["expr"]):
        assert recorded in RECORDS, recorded


@every_rule
def test_what_is_aggregated_keeps_the_job_and_the_namespace(rule):
    """Two fleets in one Prometheus are two, whatever their models are called."""
    for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
        names = set(re.findall(r"\w+", labels))
        if "kube_" in rule["expr"] or not names:
            continue
        assert {"namespace", "job"} <= names, rule["expr"]


def excluded(record):
    return set(re.search(r'reason!~"([^"]*)"', RECORDS[record]["expr"])[1].split("|"))


def test_what_is_asked_leaves_out_what_callers_do_wrong():
    callers = {str(each) for each in CALLER_ERRORS}
    callers |= {str(each) for each in UnreadReason} - {"internal"}
    for kind in ("rate5m", "increase5m"):
        record = f"namespace_job_model_version:batcher_requests_asked:{kind}"
        assert excluded(record) == callers


def test_both_forms_of_what_is_asked_are_one():
    one, other = (
        RECORDS[f"namespace_job_model_version:batcher_requests_asked:{kind}"]["expr"]
        for kind in ("rate5m", "increase5m")
    )
    assert one.replace("rate(", "increase(") == other


def test_an_autoscaler_that_asks_prometheus_asks_for_the_load_that_is_recorded():
    path = ROOT / "deploy" / "scaling" / "keda-prometheus" / "scaled-object.yaml"
    (trigger,) = yaml.safe_load(path.read_text("utf-8"))["spec"]["triggers"]
    recorded = RECORDS["namespace_job:batcher_load_replicas:sum"]["expr"]
    of_one_job = recorded.replace(" by (namespace, job) ", "").replace(
        "namespace, job, instance", "instance"
    )
    assert trigger["metadata"]["query"].replace('{job="ml/ranker"}', "") == of_one_job


def test_the_object_has_the_rules_of_the_files():
    text = generate_prometheus_rule.OBJECT.read_text("utf-8")
    assert text == generate_prometheus_rule.generated(), "python tools/generate_prometheus_rule.py"
    groups = [
        group for path in PATHS for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    ]
    assert yaml.safe_load(text)["spec"] == {"groups": groups}


def test_the_object_may_point_to_a_runbook_elsewhere(capsys, monkeypatch):
    url = "https://git.example.com/runbook.md"
    monkeypatch.setattr(sys, "argv", ["generate", "--runbooks", url])
    assert generate_prometheus_rule.main() == 0
    found = yaml.safe_load(capsys.readouterr().out)["spec"]["groups"]
    urls = {
        rule["annotations"]["runbook_url"].split("#")[0]
        for group in found
        for rule in group["rules"]
        if "alert" in rule
    }
    assert urls == {url}
