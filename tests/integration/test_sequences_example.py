"""examples/sequences as its comments say: make the model, serve it, listen to recordings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs(serve, tmp_path):
    run(EXAMPLES / "sequences" / "make_model.py", tmp_path / "detector.onnx")
    config = yaml.safe_load((EXAMPLES / "sequences.yaml").read_text(encoding="utf-8"))
    config["models"][0]["options"]["path"] = "detector.onnx"
    server = serve(config | {"server": {}})
    said = run(EXAMPLES / "sequences" / "listen.py", "--target", server.grpc, "--frames", "5")
    # The same numbers in each run: the model and the recordings come from fixed seeds.
    last = re.findall(r"(\d+) frames .* last (0\.\d+)", said)
    assert [int(frames) for frames, _ in last] == list(range(5, 13))
    again = run(EXAMPLES / "sequences" / "listen.py", "--target", server.grpc, "--frames", "5")
    assert re.findall(r"last (0\.\d+)", again) == [number for _, number in last]
