from __future__ import annotations

import pytest

from batcher.cli.live.client import Event, LiveError
from batcher.cli.live.numbers import blocks, rate, seconds
from batcher.cli.live.screen import lines, take
from batcher.cli.live.state import LiveState


@pytest.fixture
def screen(values):
    """The text of a screen of this size, of these models."""

    def draw(*models, width=80, height=24, silent_s=0.0, trouble="", **fields):
        state = LiveState()
        state.take(Event(1, values(*models, history=[], **fields)), 100.0)
        state.trouble = trouble
        return [line.plain for line in lines(state, width, height, 100.0 + silent_s)]

    return draw


def test_a_model_is_a_line_whose_columns_line_up(screen):
    drawn = screen()
    assert drawn[0] == "+ 1 model, nothing is wrong"
    head, line = drawn[3:5]
    assert head.split() == [
        "model",
        "age",
        "target",
        "in/s",
        "ok/s",
        "lost/s",
        "p99",
        "rows",
        "busy",
    ]
    assert line.split() == [
        "+",
        "embedder",
        "12.3ms",
        "50ms",
        "120",
        "118",
        "0",
        "41.2ms",
        "11.2",
        "87%",
    ]
    assert len(head) == len(line) == 80


def test_a_wide_screen_has_plots_and_reasons(screen, model):
    reasons = {"refused": 2.0, "reasons": [["rejected", "predicted_late", 2.0]]}
    drawn = screen(model(reasons), width=200)
    assert "queue age, five minutes" in drawn[3]
    assert "predicted_late" in drawn[4]
    assert "▁▂▄█" in drawn[4]
    assert max(map(len, drawn)) <= 200


def test_on_a_narrow_screen_a_model_has_three_lines(screen):
    drawn = screen(width=40)
    assert drawn[3:6] == [
        "+ embedder",
        "  age 12.3ms of 50ms  p99 41.2ms",
        "  in 120  ok 118  lost 0",
    ]


@pytest.mark.parametrize("width", [20, 40, 71, 72, 95, 96, 149, 150, 200, 400])
@pytest.mark.parametrize("height", [5, 24, 50])
def test_it_fits(screen, model, width, height):
    models = [
        model(name=f"model-{number}-{'x' * 100}", state="failed", reason="no file " * 30)
        for number in range(50)
    ]
    drawn = screen(*models, width=width, height=height)
    assert len(drawn) <= height
    # Long names are cut where there are columns; elsewhere the terminal cuts the line.
    assert all(len(line) <= width for line in drawn if line.startswith("! model")) or width < 72


def test_models_that_find_no_place_are_counted(screen, model):
    drawn = screen(*[model(name=f"m{number}") for number in range(50)])
    shown = sum(line.startswith("+ m") for line in drawn)
    assert f"  and {50 - shown} more models" in drawn


def test_the_worst_model_is_first(screen, model):
    drawn = screen(
        model(name="a"), model(name="b", level="critical"), model(name="c", level="warning")
    )
    assert [line.split()[:2] for line in drawn[4:7]] == [["X", "b"], ["!", "c"], ["+", "a"]]


def test_what_is_not_known_is_a_dash_and_never_0(screen, model):
    unknown = model(recent=None, target_seconds=None, age_seconds=None, devices=[])
    unknown["recent"] = None
    (line,) = [line for line in screen(unknown) if line.startswith("+ embedder")]
    assert line.split()[2:] == ["-"] * 8


def test_a_model_that_failed_says_why(screen, model):
    failed = model(state="failed", reason="no such file", level="critical", age_seconds=None)
    assert "    failed: no such file" in screen(failed)


def test_a_server_that_is_silent(screen):
    drawn = screen(silent_s=14.0, trouble="cannot reach it: refused; is it running?")
    assert drawn[0] == "? no data for 14 s: cannot reach it: refused"
    assert screen(silent_s=2.0)[0].startswith("+")


def test_further_problems_follow_the_headline(screen):
    problems = [
        {"severity": "warning", "model": f"m{n}", "version": "1", "text": "slow"} for n in range(6)
    ]
    drawn = screen(problems=problems, status={"level": "warning", "text": "m0: slow, and 5 more"})
    assert drawn[0] == "! m0: slow, and 5 more"
    assert drawn[2:6] == ["! m1: slow", "! m2: slow", "! m3: slow", "  and 2 more"]


def test_a_server_that_was_restarted(values):
    state = LiveState()
    state.take(Event(9, values(history=[])), 1.0)
    assert not state.restarted
    again = values(history=[])
    again["server"]["start_id"] = "b"
    state.take(Event(1, again), 2.0)
    assert state.restarted
    assert any("restarted" in line.plain for line in lines(state, 80, 24, 2.0))


def test_history_grows_by_a_second_and_has_gaps_where_events_were_missed(values, model):
    state, one = LiveState(), model()
    columns = {"age_seconds": [0.1, 0.2], "arrived": [1, 1], "unserved": [0, 0]}
    history = [{"name": "embedder", "version": "1", **columns}]
    state.take(Event(7, values(history=history)), 1.0)
    state.take(Event(8, values()), 2.0)
    state.take(Event(11, values()), 5.0)
    assert state.ages(one) == [0.1, 0.2, 0.02, None, None, 0.02]
    state.take(Event(900, values()), 900.0)
    assert len(state.ages(one)) == 300


def test_versions_are_named_where_they_tell_something(values, model):
    state = LiveState()
    state.take(Event(1, values(model(), model(version="2"), model(name="b"), history=[])), 1.0)
    assert [state.name(each) for each in state.models()] == ["embedder/1", "embedder/2", "b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.0123, "12.3ms"),
        (1.5, "1.5s"),
        (150, "2min"),
        (9000, "2h"),
        (9e5, "10d"),
    ],
)
def test_times(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (0.25, "0.2"), (9.96, "10"), (12_345.6, "12,346")]
)
def test_rates(value, text):
    assert rate(value) == text


def test_blocks_show_the_highest_of_what_they_stand_for():
    assert blocks([0] * 290 + [1] * 10, 30, 1) == "▁" * 29 + "█"
    assert blocks([1], 10, 1) == " " * 9 + "█"
    assert blocks([None] * 300, 5, 1) == " " * 5
    assert blocks([], 5, 1) == " " * 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": {}},
        {"status": "fine"},
        {"models": [{}]},
        {"models": 7},
        {"history": [{"name": "embedder"}]},
        {"changes": [{"timestamp_seconds": 1e300, "severity": "ok", "text": ""}]},
        {"problems": [{}, {"severity": "dreadful", "model": "", "text": ""}]},
        {"status": {"level": "dreadful", "text": ""}},
    ],
)
def test_what_cannot_be_drawn_is_not_taken(values, wrong):
    state = LiveState()
    take(state, Event(1, values()), 100.0)
    with pytest.raises(LiveError, match="cannot be shown"):
        take(state, Event(2, values() | wrong), 101.0)
    assert lines(state, 80, 24, 101.0)[0].plain == "+ 1 model, nothing is wrong"
    take(state, Event(3, values()), 102.0)
    assert state.received_s == 102.0


def test_a_model_with_wrong_values_is_not_taken(values, model):
    for name, wrong in (("target_seconds", "soon"), ("level", "bad"), ("devices", None)):
        with pytest.raises(LiveError, match="cannot be shown"):
            take(LiveState(), Event(1, values(model(**{name: wrong}))), 1.0)
