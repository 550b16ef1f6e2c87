"""The command as a process: what a shell or a supervisor sees."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_wrong_configuration_ends_the_process_with_2(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("models: [{name: m, executor: emulated, instances: none}]")
    done = subprocess.run(
        [sys.executable, "-m", "batcher", "serve", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: {path}: 1 problem in the configuration",
        '  models[0].instances (line 1): got "none"; allowed: a whole number',
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", [["schema"], ["check", "config.yaml"]])
def test_a_reader_that_leaves_is_no_error(tmp_path, command):
    (tmp_path / "config.yaml").write_text("models: [{name: m, executor: emulated}]")
    code = (
        "import os, sys\n"
        "from batcher.__main__ import main\n"
        "r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
        f"sys.argv = {['batcher', *command]!r}\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.slow
def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['batcher', '--help']\n"
        "from batcher.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'numpy', 'uvloop', 'yaml', 'starlette', 'prometheus_client'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
