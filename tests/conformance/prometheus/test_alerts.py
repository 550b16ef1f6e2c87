"""The rules of deploy/monitoring as Prometheus reads them: valid, and raised by what they are for.

deploy/monitoring/tests has the cases, which `promtool test rules` runs by itself, too. Here it is made sure that
there is a case for every alert, and that what alerts say can be read.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
CASES = sorted((MONITORING / "tests").glob("*.yaml"))
FIRING = 'ALERTS{alertstate="firing"}'

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture
def promtool():
    """Runs a command of `promtool`; its exit code and what it printed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (.ci/packages.txt)")

    def run(*arguments):
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def alerts():
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def minutes(duration):
    parts = dict.fromkeys("hm", 0) | {u: int(n) for n, u in re.findall(r"(\d+)([hm])", duration)}
    return 60 * parts["h"] + parts["m"]


def cases():
    """Each case with the alerts that are expected, by minute."""
    for path in CASES:
        for case in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            expected = {
                minutes(check["eval_time"]): {
                    re.search('alertname="(\\w+)"', sample["labels"])[1]
                    for sample in check["exp_samples"]
                }
                for check in case["promql_expr_test"]
                if FIRING in check["expr"]
            }
            yield path, case, expected


def test_the_rules_are_valid(promtool):
    code, printed = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert code == 0, printed


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_in_their_cases_and_in_no_other(promtool, path):
    code, printed = promtool("test", "rules", path)
    assert code == 0, printed


def metrics(case):
    names = {re.match(r"\w+", each["series"])[0] for each in case["input_series"]}
    return names - {"up", "batcher_draining"} or names


@pytest.mark.parametrize("alert", sorted(alerts()))
def test_every_alert_has_a_case_in_which_it_fires_and_resolves_and_one_beside_it(alert):
    of_it, without = [], []
    for _, case, expected in cases():
        fires = any(alert in names for names in expected.values())
        if fires and alert not in expected[max(expected)]:
            of_it.append(metrics(case))
        elif expected and not fires:
            without.append(metrics(case))
    assert of_it, "no case in which it fires and then does not"
    assert any(each & names for each in of_it for names in without), "no case with the same metrics"


def test_what_alerts_say_can_be_read(promtool, tmp_path):
    """One case for each alert expects that it does not fire, and so promtool prints what it says."""
    documents = {}
    left = set(alerts())
    for path, case, expected in cases():
        for minute, names in expected.items():
            for alert in sorted(names & left):
                left.discard(alert)
                document = documents.setdefault(
                    path.stem, yaml.safe_load(path.read_text("utf-8")) | {"tests": []}
                )
                check = {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}
                one = {key: case[key] for key in ("interval", "input_series")}
                document["tests"].append(one | {"alert_rule_test": [check]})
    assert not left
    printed = ""
    for name, document in documents.items():
        document["rule_files"] = [str(path) for path in RULES]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
        printed += promtool("test", "rules", tmp_path / f"{name}.yaml")[1]
    said = dict(re.findall(r'Labels:{alertname="(\w+)".*?}\s*Annotations:{(.*?)}\s', printed))
    assert set(said) == set(alerts())
    for alert, text in said.items():
        assert not re.search(r"<no value>|<error|%!|NaN|\{\{|  ", text), (alert, text)
        assert 'description="' in text
        assert 'summary="' in text
