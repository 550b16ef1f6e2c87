"""A cell of `sizes` where a planner that knows the sizes serves less is decided by seeds that did not choose it."""

from __future__ import annotations

import pytest
import sizes

CELL = sizes.Cell(20, 3.0, "poisson", "steady")
OPTIONS = {"seeds": 2, "steps": 8, "requests": 10}
FIRST = range(2)


def test_a_cell_that_is_no_loss_is_played_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_rates", lambda _, seeds, __: ([80.0, 60.0], [75.0, 65.0]))
    assert sizes._cell((CELL, OPTIONS)) == {"knows": 70.0, "does_not": 70.0, "ok": True}


def test_a_loss_of_the_first_seeds_is_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def rates(
        _: sizes.Cell, seeds: range, __: object, *between: tuple[float, float]
    ) -> tuple[list[float], list[float]]:
        searched.append((seeds, *between))
        if seeds == FIRST:
            return [59.0, 60.0], [60.0, 60.0]
        return [61.0, 60.0], [60.0, 60.0]

    monkeypatch.setattr(sizes, "_rates", rates)
    found = sizes._cell((CELL, OPTIONS))
    assert (found["ok"], found["seeds"], found["knows"]) == (True, 2, 60.5)
    assert [seeds for seeds, *_ in searched] == [FIRST, sizes.DECIDING_SEEDS]
    assert not set(FIRST) & set(sizes.DECIDING_SEEDS)
    assert searched[1][1] == pytest.approx((0.42, 0.84))


def test_a_mean_loss_is_a_loss_however_small() -> None:
    found = sizes.decided([99.0, 102.0, 98.7], [100.0, 100.0, 100.0])
    assert not found["ok"]
    assert found["gain_percent"] == pytest.approx(-0.1)
    assert found["error_percent"] == pytest.approx(1.11**0.5)
