from __future__ import annotations

import pytest

from batcher.telemetry.live import Changes, ModelStates, Severity, States
from batcher.telemetry.live.changes import MAX_CHANGE_CHARACTERS, MAX_CHANGES

READY = ModelStates("ready", instances={0: ("up", "")})


@pytest.fixture
def changes():
    return Changes(epoch=iter(range(1000)).__next__)


@pytest.fixture
def changed(changes):
    """What is kept when the model `m` goes from one state to another."""

    def texts(before, now):
        changes.compare(States("", {"m": before} if before else {}))
        changes.compare(States("", {"m": now} if now else {}))
        return [(c.severity.value, c.text) for c in changes.newest_first()]

    return texts


def test_what_is_there_at_the_start_is_no_change(changes):
    changes.compare(States("starting", {"m": ModelStates("loading")}))
    assert len(changes) == 0


def test_the_state_of_the_server(changes):
    for state in ("starting", "", "", "draining"):
        changes.compare(States(state, {}))
    found = [(c.timestamp_seconds, c.severity, c.text) for c in changes.newest_first()]
    assert found == [
        (1, Severity.WARNING, "server: draining"),
        (0, Severity.OK, "server: ready"),
    ]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (READY, READY, []),
        (ModelStates("loading"), READY, [("ok", "m: ready")]),
        (READY, ModelStates("failed", "no file"), [("critical", "m: failed: no file")]),
        (
            READY,
            ModelStates("unready", "x", {0: ("restarting", "killed")}),
            [("warning", "m: instance 0 is restarting: killed"), ("critical", "m: unready: x")],
        ),
        (
            ModelStates("unready", "x", {0: ("restarting", "killed")}),
            READY,
            [("ok", "m: ready")],
        ),
        (
            ModelStates("ready", instances={1: ("restarting", "")}),
            ModelStates("ready", instances={1: ("up", "")}),
            [("ok", "m: instance 1 is up")],
        ),
        (READY, ModelStates("ready", "cannot reload"), [("warning", "m: cannot reload")]),
        (READY, ModelStates("ready", generation=2), [("ok", "m: generation 2 serves")]),
        (
            ModelStates("ready", counts={"instance lost (hung)": 1}),
            ModelStates("ready", counts={"instance lost (hung)": 3}),
            [("warning", "m: instance lost (hung), 2 times")],
        ),
        # A model that went and came back counts from 0.
        (ModelStates("ready", counts={"lost": 5}), ModelStates("ready", counts={"lost": 0}), []),
        (None, READY, [("notice", "m: new, ready")]),
        (READY, None, [("notice", "m: served no more")]),
    ],
)
def test_the_state_of_a_model(changed, before, now, expected):
    assert changed(before, now) == expected


def test_many_models_that_change_alike_are_one_entry(changes):
    names = [f"m{number}" for number in range(53)]
    changes.compare(States("", dict.fromkeys(names, ModelStates("loading"))))
    changes.compare(States("", dict.fromkeys(names, READY)))
    assert [c.text for c in changes.newest_first()] == ["53 models: ready"]


def test_the_last_ones_are_kept_and_long_ones_are_cut(changes):
    for number in range(MAX_CHANGES + 3):
        changes.note(Severity.NOTICE, f"{number} " + "x" * 10_000)
    kept = changes.newest_first()
    assert len(kept) == MAX_CHANGES
    assert kept[0].text.startswith(f"{MAX_CHANGES + 2} ")
    assert {len(c.text) for c in kept} == {MAX_CHANGE_CHARACTERS}
