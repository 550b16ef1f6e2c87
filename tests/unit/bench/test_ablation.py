"""The ablation forgets no number of the core, and each of its parts can be changed and put back."""

from __future__ import annotations

import ablation
import pytest
from ablation_heuristics import HEURISTICS
from ablation_parts import CORE, FIXED, SCENES_OF, constants, scaled, scaled_constants
from ablation_scenes import SCENES

from batcher.core import times
from batcher.core.policies import backlog, waiting


def test_every_number_of_the_core_is_varied_or_no_choice():
    labels = {each.label for each in constants()}
    assert len(labels) > 20
    assert not {each.label for each in constants() if not each.scenes} - set(FIXED), (
        "say in ablation_parts which scenes these are for, or in FIXED why they are no choice"
    )
    assert set(FIXED) <= labels, "gone from the core"


def test_every_file_and_scene_that_is_named_exists():
    assert not [file for file in SCENES_OF if not (CORE / f"{file}.py").exists()]
    named = {scene for scenes in SCENES_OF.values() for scene in scenes}
    named |= {scene for part in HEURISTICS for scene in part.scenes}
    assert named <= set(SCENES)


@pytest.mark.parametrize(
    "part", [*HEURISTICS, *scaled_constants(constants())], ids=lambda p: p.name
)
def test_a_part_is_changed_and_put_back(part):
    with part.without():
        pass
    with part.without():
        pass


def test_a_constant_is_changed_where_it_was_imported_by_name():
    constant = next(each for each in constants() if each.label == "times.TOLERANCE_NS")
    usual = waiting.TOLERANCE_NS
    with scaled(constant, 1.4):
        assert waiting.TOLERANCE_NS == backlog.TOLERANCE_NS == 1.4 * usual
    assert waiting.TOLERANCE_NS == backlog.TOLERANCE_NS == usual


def test_a_whole_number_stays_one_and_changes(monkeypatch):
    constant = next(each for each in constants() if each.label == "times.TOLERANCE_NS")
    monkeypatch.setattr(times, "TOLERANCE_NS", 1)
    with scaled(constant, 1.4):
        assert times.TOLERANCE_NS == 2
    with scaled(constant, 0.7):
        assert times.TOLERANCE_NS == 0


def test_losses_count_what_is_worse():
    usual = {"a: in time %, x": 90.0, "a: busy %": 50.0, "a: p99 ms": 5.0}
    changed = {"a: in time %, x": 88.0, "a: busy %": 45.0, "a: p99 ms": 7.0}
    assert ablation.losses(usual, changed) == {
        "a: in time %, x": 2.0,
        "a: p99 ms": 2.0,
        "a: busy %": -5.0,
    }
