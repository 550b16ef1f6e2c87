"""Every row of the table of instances, and what the tables have to name."""

from __future__ import annotations

from pathlib import Path

import pytest

from batcher.core.lifecycle import RequestState
from batcher.testing.states import BatchState, InstanceState, instance_state
from batcher.testing.transitions import read_transitions, recorded_transitions

PAGE = Path(__file__).parents[4] / "docs" / "scheduler-states.md"
ROWS = read_transitions(PAGE)


# Each scenario sets up, yields, and then has the cause happen to incarnation 1 of `i`.

SET_UP = {
    "down": lambda world: world.play.fixed(),
    "idle": lambda world: (world.play.fixed(), world.up(warm=False)),
    "busy": lambda world: world.running(),
    "draining": lambda world: (world.running(), world.play.draining()),
}
INSTANCES = {
    ("InstanceUp", "idle"): lambda world: world.up(warm=False),
    ("dispatch", "busy"): lambda world: world.play.arrive(1),
    ("BatchProgress", "idle"): lambda world: world.play.done(1, 1),
    ("InstanceDraining", "draining"): lambda world: world.play.draining(),
    ("InstanceDown", "down"): lambda world: world.play.down(),
    ("InstanceUp", "down"): lambda world: world.up("i", 2, warm=False),
}


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.kind == "instance"],
    ids=lambda row: f"{row.before}-{row.cause}-{row.after}",
)
def test_an_instance_goes_from_state_to_state_as_the_table_says(world, row):
    with recorded_transitions() as recorder:
        SET_UP[row.before](world)
        instance = world.scheduler.fleet.instances.get("i")
        assert ((instance and instance_state(instance)) or "down") == row.before
        so_far = len(recorder.seen)
        INSTANCES[row.cause, row.after](world)
    assert row in [seen for each, seen in recorder.seen[so_far:] if each == ("instance", "i", 1)]
    assert {seen for _, seen in recorder.seen} <= set(ROWS)


def test_the_table_has_a_row_for_each_scenario():
    rows = {(row.cause, row.after) for row in ROWS if row.kind == "instance"}
    assert set(INSTANCES) <= rows


def test_the_tables_name_every_state():
    named = {(row.kind, state) for row in ROWS for state in (row.before, row.after)}
    kinds = {"request": RequestState, "batch": BatchState, "instance": InstanceState}
    assert named == {(kind, state) for kind, states in kinds.items() for state in states}


def test_no_row_is_there_twice():
    assert len(set(ROWS)) == len(ROWS)
