"""`docs/fleet-simulation.md` against what it describes."""

import re
from pathlib import Path

import pytest

from batcher.simulation.fleet import End, FaultKind, Signal
from batcher.simulation.fleet.balancers import parse_balancer

PAGE = (Path(__file__).parents[4] / "docs/fleet-simulation.md").read_text(encoding="utf-8")


def cells(heading):
    """What is in backticks in the first column of a table."""
    _, table = PAGE.split(heading, 1)
    rows = table.split("\n\n", 1)[0].splitlines()
    return [name for row in rows if row for name in re.findall(r"`(\w+)`", row.split("|")[1])]


@pytest.mark.slow
def test_its_example_runs(capsys):
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, {})
    on_time, replica_seconds, flaps = capsys.readouterr().out.split()
    # Up to 16 s there is one replica, for twice of what it can serve in time.
    assert 0.5 < float(on_time) < 0.9
    assert (float(replica_seconds), int(flaps)) == (49.999, 0)


def test_its_tables_are_complete():
    assert cells("| `End` | the request ended |") == [each.name for each in End]
    assert cells("| fault | what happens |") == [each.name for each in FaultKind]
    assert cells("| signal | is | from |") == list(Signal)
    for name in cells("| | as |"):
        parse_balancer(name)
