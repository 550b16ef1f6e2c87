"""examples/python.yaml as its comments say: checked, served, and asked."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow

ANSWERS = """\
decide CH 120: approve
decide US 5000: review above 1000
decide XX 1: review no rule for XX
decide DE -3: INVALID_ARGUMENT, decide: the executor refused the input: row 0: amount is negative
tokens A request waits: [3, 4, 7, 0, 0, 0, 0, 0]
tokens the request shares the batch: [2, 4, 8, 2, 5, 0, 0, 0]
lookup 7: 0.07
lookup 142: 0.42
"""


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # a bound on what hangs
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_example_is_checked_without_being_loaded():
    assert "ok" in run("-m", "batcher", "check", EXAMPLES / "python.yaml")


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_the_example_runs(serve, isolation, tmp_path):
    config = yaml.safe_load((EXAMPLES / "python.yaml").read_text(encoding="utf-8"))
    (tmp_path / "python").symlink_to(EXAMPLES / "python")
    for model in config["models"]:
        if model["name"] != "lookup" or isolation == "process":
            model["isolation"] = isolation
    server = serve(config | {"server": {}})
    said = run(EXAMPLES / "python" / "ask.py", "--target", server.grpc)
    assert said == ANSWERS
