from dataclasses import dataclass

import pytest

from batcher.cli.main import app


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: `run("check", path)`, on a page of 80 columns.

    Not typer's `CliRunner`: its way to tell the two streams apart changed between versions.
    """
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            app([str(part) for part in arguments], prog_name="batcher")
        told = capsys.readouterr()
        return Ended(ended.value.code, told.out, told.err)

    return call


@pytest.fixture
def write(tmp_path):
    """Write a configuration file; returns its path."""

    def call(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return call
