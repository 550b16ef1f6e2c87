"""`docs/simulator.md` against what it describes."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from batcher.cli.main import app
from batcher.simulation.compare.experiment import cells
from batcher.simulation.compare.report import summarize
from batcher.simulation.traffic.arrivals import is_process, parse_process

PAGE = (Path(__file__).parents[3] / "docs/simulator.md").read_text(encoding="utf-8")


def test_its_options_exist_and_every_option_is_on_it():
    commands = get_command(app).commands
    known = {
        option
        for name in ("simulate", "profile")
        for parameter in commands[name].params
        for option in parameter.opts
    }
    named = set(re.findall(r"(--[a-z][a-z-]*)", PAGE))
    assert named <= known
    simulate = {option for parameter in commands["simulate"].params for option in parameter.opts}
    silent = {"--optimum", "config"}
    assert simulate - named <= silent


def test_its_processes_are_read():
    (table,) = re.findall(r"^\| `--arrivals`.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    spellings = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)[1:]
    processes = [text for text in spellings if is_process(text)]
    assert len(processes) == 5
    for text in processes:
        parse_process(text)


def test_its_keys_are_those_of_the_json(experiment):
    (cell,) = cells(experiment(requests=5), lambda what, through: None)
    _, section = PAGE.split("## Output\n")
    keys = [
        key
        for row in re.findall(r"^\| (`.+?) \| ", section, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(keys) == sorted(summarize(cell, 1.0).as_json())


@pytest.mark.slow
def test_its_first_run_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    (config,) = re.findall(r"<!-- example: config -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    (command,) = re.findall(r"<!-- example: command -->\n```\n(.*?)```", PAGE, re.DOTALL)
    shown = re.findall(r"```\n(models: .*?)```", PAGE, re.DOTALL)[0]
    (tmp_path / "hello.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        app(shlex.split(command)[1:], prog_name="batcher")
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    for line in shown.splitlines():
        if line.strip() and "──" not in line and line.strip() != "...":
            assert " ".join(line.split()) in printed
