"""Onnxruntime does not report that it is used."""

import os
import subprocess
import sys


def test_the_plugin_leaves_no_identifier_of_the_machine(tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environ = {n: v for n, v in os.environ.items() if n not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    subprocess.run(
        [sys.executable, "-c", "import batcher_onnxruntime"], env=environ | home, check=True
    )
    assert not list(tmp_path.iterdir())
