import pytest
from typer.testing import CliRunner

from batcher.cli.main import app


@pytest.fixture
def run(monkeypatch):
    """Run the command line in this process: `run("check", path)`, on a terminal of 80 columns."""
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    environ = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}

    def call(*arguments):
        return CliRunner().invoke(
            app, [str(part) for part in arguments], env=environ, prog_name="batcher"
        )

    return call


@pytest.fixture
def write(tmp_path):
    """Write a configuration file; returns its path."""

    def call(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return call
