"""`--help` as snapshots, so that a change of the command line shows as a diff."""

import re
from pathlib import Path

import pytest

from batcher import __version__
from batcher.cli.main import app

SNAPSHOTS = Path(__file__).parent / "snapshots"
COMMANDS = [
    "serve",
    "check",
    "top",
    "simulate",
    "replay",
    "profile",
    "suggest",
    "buckets",
    "tune",
    "scaler",
    "schema",
]


def words(text):
    """The text as typer's versions agree on it: no frames, line breaks or notation of types."""
    text = re.sub(r"[╭╮╰╯│─•{}]|\bTEXT\b", " ", text).lower()
    text = re.sub(r"<bool>|<path>|<str>|\bpath\b", " ", text)
    text = re.sub(r"\[(\w+(?:\|\w+)+)\]", r"<\1>", text)
    text = re.sub(r"\b(\w+)\s+\[\1\]", r"\1", text)  # an argument that may be left out
    return " ".join(text.split())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_is_as_recorded(run, command):
    """Record it again with `COLUMNS=80 batcher COMMAND --help > tests/unit/cli/snapshots/...`."""
    result = run(*([command] if command else []), "--help")
    assert result.exit_code == 0
    recorded = (SNAPSHOTS / f"batcher{command and '-'}{command}.txt").read_text(encoding="utf-8")
    assert words(result.stdout) == words(recorded)


def test_every_command_has_a_snapshot():
    registered = [info.name or info.callback.__name__ for info in app.registered_commands]
    assert registered == COMMANDS
    names = {path.name for path in SNAPSHOTS.iterdir()}
    assert names == {"batcher.txt", *(f"batcher-{command}.txt" for command in COMMANDS)}


def test_every_command_shows_examples(run):
    for command in COMMANDS:
        assert f"batcher {command}" in words(run(command, "--help").stdout).split("example")[-1]


def test_no_arguments_show_the_help(run):
    assert words(run().stdout) == words(run("--help").stdout)


def test_the_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"batcher {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [("chek",), ("serve",), ("check", "--what"), ("serve", "x.yaml", "--log-level", "loud")],
)
def test_a_wrong_use_ends_with_2(run, arguments):
    assert run(*arguments).exit_code == 2
