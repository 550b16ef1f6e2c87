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


def replica(number, ratio, up="1"):
    labels = f'{{{JOB}, pod="ranker-{number}"}}'
    series = [{"series": f"up{labels}", "values": f"{up}x40"}]
    if ratio is not None:
        series.append({"series": f"batcher_desired_ratio{labels}", "values": f"{ratio}x40"})
    return series


SCENES = {
    "all are known": ([replica(n, 0.5) for n in range(4)], 2.0),
    "one is idle": ([replica(0, 1.2), replica(1, 0)], 1.2),
    "one cannot be scraped: as much as the others": (
        [*(replica(n, 0.5) for n in range(3)), replica(3, None, up="0")],
        2.0,
    ),
    "one has started and has no load yet: nothing": (
        [*(replica(n, 0.5) for n in range(3)), replica(3, None)],
        1.5,
    ),
    "none can be scraped: no value, and not 0": ([replica(0, None, up="0")], None),
    "there are none": ([], None),
    "another fleet": (
        [[{"series": 'batcher_desired_ratio{job="ml/other"}', "values": "1x40"}]],
        None,
    ),
}


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
        "promql_expr_test": [{"expr": query, "eval_time": "1m", "exp_samples": samples}],
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
