"""The query of the ScaledObject, in a real Prometheus: the load of the fleet in replicas."""

import shutil
import subprocess

import pytest
import yaml

JOB = 'job="ml/ranker"'

pytestmark = pytest.mark.conformance


@pytest.fixture
def query(deploy):
    text = (deploy / "scaling" / "keda-prometheus" / "scaled-object.yaml").read_text("utf-8")
    (trigger,) = yaml.safe_load(text)["spec"]["triggers"]
    return trigger["metadata"]["query"]


def replica(number, ratio, up="1x80"):
    """The series of one replica; `ratio` and `up` as promtool writes values, every 5 s."""
    labels = f'{{{JOB}, instance="10.0.0.{number}:8002", pod="ranker-{number}"}}'
    series = [{"series": f"up{labels}", "values": up}]
    if ratio is not None:
        series.append({"series": f"batcher_desired_ratio{labels}", "values": ratio})
    return series


HALF, LOST, UNREACHABLE = "0.5x80", "0.5x6 stale", "1x6 0x73"

SCENES = {
    "all are known": ([replica(n, HALF) for n in range(4)], 2.0),
    "one is idle": ([replica(0, "1.2x80"), replica(1, "0x80")], 1.2),
    "one can be scraped no more: its last value": (
        [*(replica(n, HALF) for n in range(3)), replica(3, LOST, up=UNREACHABLE)],
        2.0,
    ),
    "one is gone": ([*(replica(n, HALF) for n in range(3)), replica(3, LOST, up="1x6 stale")], 1.5),
    "one has started and has no load yet: nothing": (
        [*(replica(n, HALF) for n in range(3)), replica(3, None)],
        1.5,
    ),
    "one starts and does not answer yet: nothing": (
        [*(replica(n, HALF) for n in range(3)), replica(3, None, up="0x80")],
        1.5,
    ),
    "none was ever scraped: no value, and not 0": ([replica(0, None, up="0x80")], None),
    "there are none": ([], None),
    "another fleet": (
        [[{"series": 'batcher_desired_ratio{job="ml/other"}', "values": "1x80"}]],
        None,
    ),
}
"""What Prometheus has, and what the query makes of it after two minutes: the first 30 s were another time."""


@pytest.mark.parametrize("scene", SCENES)
def test_the_query_counts(scene, query, tmp_path):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (.ci/packages.txt)")
    replicas, expected = SCENES[scene]
    samples = [] if expected is None else [{"labels": "{}", "value": expected}]
    test = {
        "interval": "5s",
        "input_series": [series for each in replicas for series in each],
        "promql_expr_test": [{"expr": query, "eval_time": "2m", "exp_samples": samples}],
    }
    content = {"rule_files": [], "evaluation_interval": "5s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [program, "test", "rules", "test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
