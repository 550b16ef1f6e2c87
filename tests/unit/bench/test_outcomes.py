"""The recorded simulations: equal every time, and a changed outcome does not go unnoticed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import outcomes
import pytest
from outcome_scenes import scenes

NAMES = (
    "faults: adaptive, serve, unknown, 0.3, 0.7",
    "deadlines: fixed 8 ms, 1.5, target, timeout 35",
)


@pytest.fixture(scope="module")
def few() -> dict[str, Any]:
    every = scenes()
    return {name: every[name] for name in NAMES}


@pytest.fixture(scope="module")
def kept(few: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outcomes") / "kept.json"
    assert outcomes.run(options(save=path), few) == 0
    return path


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"save": None, "check": None, "show": None, "only": "", **given})


def test_equal_scenes_end_equally(few: dict[str, Any], kept: Path) -> None:
    assert outcomes.run(options(check=kept), few) == 0


def test_every_request_of_a_scene_ends(kept: Path) -> None:
    for figures in json.loads(kept.read_text())["scenes"].values():
        ends = ("answered", "refused", "expired", "cancelled", "failed")
        assert sum(figures[each] for each in ends) == figures["requests"]
        assert figures["answered"] > 0


def test_scenes_show_what_they_are_named_for(kept: Path) -> None:
    faulty, limited = (json.loads(kept.read_text())["scenes"][name] for name in NAMES)
    assert faulty["failed"] > 100
    assert faulty["rows"] > faulty["requests"], "failed batches are executed again"
    assert limited["expired"] > 100


def test_a_request_that_ends_a_nanosecond_later_is_a_difference(
    few: dict[str, Any],
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = outcomes.Played.lines
    changed = "deadlines: fixed 8 ms, 1.5, target, timeout 35"

    def later(played: outcomes.Played) -> Any:
        if played.scene.seed in changed:
            code, at_ns, *rest = played.ended[7]
            played.ended[7] = (code, at_ns + 1, *rest)
        return ended(played)

    monkeypatch.setattr(outcomes.Played, "lines", later)
    assert outcomes.run(options(check=kept), few) == 1
    told = capsys.readouterr().out
    assert changed in told
    assert NAMES[0] not in told
    assert "1 of 2 scenes" in told


def test_a_scene_that_is_missing_is_a_difference(few: dict[str, Any], kept: Path) -> None:
    one = {NAMES[0]: few[NAMES[0]]}
    assert outcomes.run(options(check=kept), one) == 1


def test_scenes_are_checked_by_a_part_of_their_name(few: dict[str, Any], kept: Path) -> None:
    one = {NAMES[0]: few[NAMES[0]]}
    assert outcomes.run(options(check=kept, only="faults"), one) == 0


def test_a_part_of_the_scenes_is_not_saved(few: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--only"):
        outcomes.run(options(save=tmp_path / "kept.json", only="faults"), few)
    assert not list(tmp_path.iterdir())


def test_one_scene_is_shown_request_by_request(
    few: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes.run(options(show=NAMES[0]), few) == 0
    assert capsys.readouterr().out.count("\n") == 1_001
    assert outcomes.run(options(show="unknown"), few) == 2
    assert capsys.readouterr().out == f"{NAMES[0]}\n{NAMES[1]}\n"


def test_the_kept_file_has_every_scene() -> None:
    assert json.loads(outcomes.KEPT.read_text())["scenes"].keys() == scenes().keys()
