"""Grafana's own classes read the dashboard, and know every key of it."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import environments

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "deploy" / "monitoring" / "dashboard.json").read_text("utf-8"))

OF_THE_SOURCE = {
    *(
        f".annotations.list[].{key}"
        for key in ("step", "tagKeys", "textFormat", "titleFormat", "useValueForTime")
    ),
    ".templating.list[].definition",
}
"""Keys that belong to the data source, and the classes are of any."""

OF_ONE_VERSION = {
    "grafana-10": {".panels[].options.tooltip.mode"},
    "grafana-11": {".panels[].options.tooltip.show"},
}

pytestmark = pytest.mark.conformance


@pytest.fixture(params=OF_ONE_VERSION)
def version(request):
    return request.param


@pytest.fixture
def unknown(version):
    """What Grafana's classes do not know of a dashboard."""
    try:
        python = environments.interpreter(version)
    except environments.CannotMakeError as error:
        pytest.skip(str(error))

    def ask(document):
        done = subprocess.run(
            [python, Path(__file__).parent / "grafana_model.py"],
            input=json.dumps(document),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return set(json.loads(done.stdout)) - OF_THE_SOURCE - OF_ONE_VERSION[version]

    return ask


def test_every_key_is_known(unknown):
    assert unknown(DASHBOARD) == set()


def test_a_key_that_is_wrong_would_be_noticed(unknown):
    """As far down as options of a panel."""
    wrong = copy.deepcopy(DASHBOARD)
    graph = next(panel for panel in wrong["panels"] if panel["type"] == "timeseries")
    graph["options"]["legned"] = graph["options"].pop("legend")
    graph["fieldConfig"]["defaults"]["custom"]["spanNull"] = True
    graph["targets"][0]["exp"] = "up"
    assert unknown(wrong) == {
        ".panels[].options.legned",
        ".panels[].fieldConfig.defaults.custom.spanNull",
        ".panels[].targets[].exp",
    }
