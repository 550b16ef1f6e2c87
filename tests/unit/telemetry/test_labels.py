"""What labels hold is stated, and its number bounded."""

import re
from pathlib import Path

import pytest

from batcher.runtime.health import InstanceState, ModelState
from batcher.telemetry.families import FAMILIES, OPTIONAL, models, process

LIMITS = Path(__file__).parents[3] / "docs" / "limits.md"

every_label = pytest.mark.parametrize(
    ("family", "label"),
    [(family, label) for family in (*FAMILIES, *OPTIONAL) for label in family.labels],
    ids=lambda value: getattr(value, "name", value),
)


@every_label
def test_every_label_says_what_it_holds_and_what_bounds_it(family, label):
    values = family.of_label(label)
    assert bool(values.names) != bool(values.bound), "a fixed set, or a named bound"
    assert bool(values.names) != bool(values.meaning)
    if values.bound:
        section = LIMITS.read_text().split("## Series of metrics")[1].split("\n## ")[0]
        assert re.search(rf"^\| {re.escape(values.bound)} \|", section, re.MULTILINE), values.bound


def test_what_is_stated_is_a_label():
    for family in (*FAMILIES, *OPTIONAL):
        assert set(family.values) <= set(family.labels), family.name


def test_states_are_those_of_the_runtime():
    assert process.MODEL_STATE.of_label("state").names == tuple(ModelState)
    assert models.INSTANCE_STATE.of_label("state").names == tuple(InstanceState)
