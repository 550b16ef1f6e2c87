"""`bench/gpu/signals.py`, as far as it goes without a GPU: a recorded one, and an nvidia-smi that agrees or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "bench" / "gpu" / "signals.py"


def run(*options, **environ):
    command = [sys.executable, str(SCRIPT), *options]
    environ = {**os.environ, **environ}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environ
    )


@pytest.fixture
def smi(tmp_path):
    """A folder with an nvidia-smi that says this of utilization."""

    def make(utilization):
        said = f"{utilization}, 38400, 81559, 412.35, 54, 1980, [N/A]"
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{said}'\n")
        program.chmod(0o755)
        machine = tmp_path / "nvml.json"
        errors = {"nvmlDeviceGetClockInfo": ""}
        machine.write_text(json.dumps({"gpus": [{"memory_clock": 0, "errors": errors}]}))
        fake = ROOT / "tests" / "fake_nvml" / "path"
        return {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": f"{fake}:{ROOT}:{os.environ.get('PYTHONPATH', '')}",
            "FAKE_NVML": str(machine),
        }

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("utilization", "code"), [(84, 0), (60, 1)])
def test_it_compares(smi, utilization, code):
    done = run("--idle", "--seconds", "1", **smi(utilization))
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = [each for each in done.stdout.splitlines() if "utilization.gpu" in each]
    assert line.split()[1:] == [f"{utilization}.0", "87.0", "5.0", "DIFFERS" if code else "ok"]
    assert 'state="ok"' in done.stdout


@pytest.mark.slow
def test_it_is_skipped_without_a_gpu(tmp_path):
    done = run(PATH=str(tmp_path))
    assert done.returncode == 77
    assert done.stdout == "skipped: there is no nvidia-smi\n"
