"""The plugin that docs/writing-an-executor.md builds passes its own tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batcher.config import parse_config

GUIDE = Path(__file__).parents[3] / "docs" / "writing-an-executor.md"


@pytest.fixture
def plugin(tmp_path):
    """The guide's files, as a reader would have them."""
    blocks = re.findall(
        r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    for name, text in blocks:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_guide_has_the_files_it_lists(plugin):
    files = {str(path.relative_to(plugin)) for path in plugin.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml",
        "src/batcher_linear/__init__.py",
        "tests/test_contract.py",
        "linear.yaml",
    }


def test_configuration_is_valid(plugin):
    config = parse_config((plugin / "linear.yaml").read_text())
    assert config.models[0].options == {"path": "linear.npz", "scale": 2.0}


@pytest.mark.slow
def test_plugin_passes_the_contract(plugin):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=plugin,
        env={**os.environ, "PYTHONPATH": str(plugin / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
