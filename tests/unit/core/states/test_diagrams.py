"""The diagrams of docs/scheduler-states.md show the transitions of its tables, and no others."""

import re
from pathlib import Path

import pytest

from batcher.testing.transitions import TABLES, read_transitions

PAGE = Path(__file__).parents[4] / "docs" / "scheduler-states.md"
ROWS = read_transitions(PAGE)
OUTSIDE = {"request": "new", "batch": "new", "instance": "down"}
"""What `[*]` is."""


def diagrams(heading):
    """The lines of each diagram under a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [
        [line.strip() for line in part.split("```")[0].splitlines()]
        for part in section.split("```mermaid\n")[1:]
    ]


def read_arrows(heading):
    """Every arrow: the states that it may begin at, those that it may end at, and one cause."""
    kind, _ = TABLES[heading]
    return [arrow for lines in diagrams(heading) for arrow in arrows_of(lines, OUTSIDE[kind])]


def arrows_of(lines, outside):
    """The arrows of one diagram."""
    boxes, arrows = {"[*]": {outside}}, []
    for line in lines:
        if found := re.fullmatch(r"state \"[^:]+: ([^\"]+)\" as (\w+)", line):
            boxes[found[2]] = set(found[1].split(", "))
        elif found := re.fullmatch(r"(\S+) --> (\S+): (.+)", line):
            arrows += [(found[1], found[2], cause) for cause in found[3].split(", ")]
        elif found := re.fullmatch(r"(\w+): (.+)", line):
            boxes[found[1]] = {found[2]}
    return [(boxes.get(a, {a}), boxes.get(b, {b}), cause) for a, b, cause in arrows]


def shows(arrow, row):
    starts, ends, cause = arrow
    return row.before in starts and row.after in ends and row.cause == cause


@pytest.mark.parametrize("heading", TABLES)
def test_every_row_of_a_table_is_an_arrow(heading):
    arrows = read_arrows(heading)
    rows = [row for row in ROWS if row.kind == TABLES[heading][0]]
    assert rows
    assert [row for row in rows if not any(shows(arrow, row) for arrow in arrows)] == []


@pytest.mark.parametrize("heading", TABLES)
def test_every_arrow_is_in_a_table(heading):
    rows = [row for row in ROWS if row.kind == TABLES[heading][0]]
    arrows = read_arrows(heading)
    assert [arrow for arrow in arrows if not any(shows(arrow, row) for row in rows)] == []
