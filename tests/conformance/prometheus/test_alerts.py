"""The alerts of docs/running.md, as Prometheus reads them: valid, and raised by what they are for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).parents[3] / "docs" / "running.md"

pytestmark = pytest.mark.conformance


@pytest.fixture
def promtool(tmp_path):
    """Runs a command of `promtool` on the page's rules, and on tests of them if there are any."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (.ci/packages.txt)")
    (rules,) = re.findall(r"```yaml\n(groups:.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "rules.yaml").write_text(rules)

    def run(kind, tests=None):
        name = "rules.yaml"
        if tests is not None:
            name = "tests.yaml"
            (tmp_path / name).write_text(yaml.safe_dump(tests))
        done = subprocess.run(
            [program, kind, "rules", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def requests(outcome, reason, each_minute):
    labels = f'model="hello", version="1", outcome="{outcome}", reason="{reason}"'
    return {"series": f"batcher_requests_total{{{labels}}}", "values": f"0+{each_minute}x20"}


def raised(alert, series, labels):
    """A test: whether the alert is on after twenty minutes. `labels` is None where it must not be."""
    expected = [] if labels is None else [{"exp_labels": labels}]
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": "20m", "alertname": alert, "exp_alerts": expected}],
    }


def test_the_rules_are_valid(promtool):
    promtool("check")


@pytest.mark.parametrize(
    ("outcome", "reason", "on"),
    [
        ("rejected", "predicted_late", True),
        ("rejected", "queue_requests", True),
        ("rejected", "no_instance", True),
        ("expired", "queue_timeout", True),
        ("expired", "deadline_too_short", True),
        ("expired", "caller_deadline", True),
        ("rejected", "invalid", False),
        ("rejected", "draining", False),
        ("cancelled", "caller_cancelled", False),
    ],
)
def test_requests_that_the_server_could_not_serve_in_time_raise_an_alert(
    promtool, outcome, reason, on
):
    series = [requests("ok", "", 980), requests(outcome, reason, 20)]
    test = raised("BatcherTurnsAway", series, {"model": "hello"} if on else None)
    promtool("test", {"rule_files": ["rules.yaml"], "tests": [test]})


@pytest.mark.parametrize(("reason", "on"), [("device", True), ("input", False)])
def test_failures_raise_an_alert_but_not_those_of_a_caller(promtool, reason, on):
    labels = {"model": "hello", "reason": reason} if on else None
    test = raised("BatcherFails", [requests("failed", reason, 60)], labels)
    promtool("test", {"rule_files": ["rules.yaml"], "tests": [test]})


def test_messages_that_found_no_room_raise_an_alert(promtool):
    series = [{"series": "batcher_buffer_refusals_total", "values": "0+6x20"}]
    test = raised("BatcherBufferFull", series, {})
    promtool("test", {"rule_files": ["rules.yaml"], "tests": [test]})


def predicted(cause, each_minute):
    labels = f'model="hello", version="1", cause="{cause}"'
    return {
        "series": f"batcher_predicted_refusals_total{{{labels}}}",
        "values": f"0+{each_minute}x20",
    }


def busy(model, seconds_a_minute, device="gpu"):
    labels = f'model="{model}", version="1", device="{device}"'
    return {
        "series": f"batcher_executor_busy_seconds_total{{{labels}}}",
        "values": f"0+{seconds_a_minute}x20",
    }


@pytest.mark.parametrize(
    ("cause", "refused", "own_s", "others_s", "on"),
    [
        ("margin", 20, 30, 10, True),
        ("queue_ahead", 20, 30, 10, True),
        ("margin", 5, 30, 10, False),
        ("queue_ahead", 20, 57, 0, False),
        ("queue_ahead", 20, 30, 27, False),
        ("deadline", 20, 30, 10, False),
    ],
)
def test_refusals_beside_a_device_with_time_raise_an_alert(
    promtool, cause, refused, own_s, others_s, on
):
    series = [
        requests("ok", "", 1000 - refused),
        requests("rejected", "predicted_late", refused),
        predicted(cause, refused),
        busy("hello", own_s),
        busy("other", others_s),
        busy("hello", 0, "gpu2"),
    ]
    labels = {"model": "hello"} if on else None
    test = raised("BatcherRefusesBesideIdleDevice", series, labels)
    promtool("test", {"rule_files": ["rules.yaml"], "tests": [test]})
