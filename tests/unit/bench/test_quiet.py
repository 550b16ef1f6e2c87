"""Which runs are judged, and what a bar says of those that are not."""

import importlib.util
import os
from pathlib import Path

import agreement
import bars
import machine
import poisson
import pytest
import quiet
import tuning
from clients import Calls, GrpcCalls

LATE = "not judged: the load was sent late (p99 29.4 ms)"


def sent(p99, **rest):
    """The figures of a run: when its load was sent, and more."""
    return {"sent_late_ms": {"p99": p99, "p99.9": 2 * p99}, **rest}


@pytest.fixture
def script():
    """One of the benchmarks' commands, by its folder, as a module."""

    def load(folder):
        path = Path(__file__).parents[3] / "bench" / folder / "__main__.py"
        spec = importlib.util.spec_from_file_location(f"bench_{folder}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


async def played(runs, repeats, **options):
    """The runs that are played out of these."""
    left = iter(runs)

    async def play():
        return next(left)

    return await quiet.until_quiet(play, repeats, **options)


def test_a_load_is_late_by_when_it_was_sent_alone():
    assert not quiet.not_judged(sent(5.0, on_time=0, failed={"UNAVAILABLE": 9}))
    assert quiet.not_judged(sent(29.4, on_time=9)) == LATE
    assert quiet.not_judged(sent(3.0), "p99.9").endswith("(p99.9 6.0 ms)")


async def test_a_run_is_repeated_until_its_load_is_sent_in_time(capsys):
    runs = [sent(29.4, steal={"server": 0.25}), sent(6.0), sent(1.0), sent(0.5)]
    assert await played(runs, 3) == runs[:3]
    said = capsys.readouterr().out.splitlines()
    assert said[0].strip() == f"{LATE}, 25.0% of the server's core stolen; repeat 1 of 3"
    assert said[1].endswith("(p99 6.0 ms); repeat 2 of 3")
    assert len(said) == 2


@pytest.mark.parametrize("repeats", [0, 1, 3])
async def test_a_run_is_repeated_a_limited_number_of_times(repeats, capsys):
    assert len(await played([sent(29.4)] * 9, repeats)) == 1 + repeats
    assert capsys.readouterr().out.splitlines()[-1].strip() == LATE


async def test_another_percentile_may_count():
    assert len(await played([sent(3.0), sent(1.0)], 3, percentile="p99.9")) == 2


def test_a_bar_that_was_not_judged_is_no_bar_that_holds(capsys):
    assert bars.exit_code({"a": {"ok": True}, "checks": {"b": True}, "settings": {"c": 0}}) == 0
    assert not capsys.readouterr().out
    assert bars.exit_code({"a": {"ok": LATE}}) == 1
    assert "1 not judged: a bar that could not be judged is not" in capsys.readouterr().out
    assert bars.exit_code({"deep": {"deeper": {"checks": {"b": LATE, "c": True}}}}) == 1


def test_only_a_missed_bar_is_marked_as_missed(capsys):
    bars.show({"a": True, "b": False, "c": LATE})
    assert capsys.readouterr().out.splitlines() == ["ok      a", "MISSED  b", f"{LATE} c"]
    assert bars.exit_code({"a": {"ok": False}}) == 1
    assert bars.exit_code({"checks": {"a": False}}) == 1
    assert bars.exit_code(None) == 0
    assert not capsys.readouterr().out


def beside(late_ms, p99_ms=20.0, repeats=0, calm_share=1.0, of_all_p99_ms=20.0):
    """One run of the server, beside a simulated p99 of 20 ms."""
    real = {"requests": 100, "answered": 100, "on_time": 100, "latency_ms": {"p99": p99_ms}}
    calm = sent(late_ms, calm_share=calm_share, **real)
    simulated = real | {"latency_ms": {"p99": 20.0}}
    whole = real | {"latency_ms": {"p99": of_all_p99_ms}}
    return agreement.compared(calm, simulated) | {
        "of_all": agreement.compared(whole, simulated),
        "calm_share": calm_share,
        "slow": {"server": 0.0},
        "steal": {"server": 0.0},
        "sent_late_p99_ms": late_ms,
        "not_judged": quiet.not_judged(calm),
        "repeats": repeats,
    }


def test_a_row_is_judged_by_the_runs_that_count():
    row = agreement.judged(800.0, [beside(1.0), beside(29.4, 90.0, 3), beside(29.4, 90.0, 3)])
    assert row["ok"] is True
    assert (row["p99_ms"], row["runs"], row["judged"], row["repeats"]) == (20.0, 3, 1, 6)
    assert agreement.judged(800.0, [beside(1.0, 90.0), beside(29.4)])["ok"] is False


@pytest.mark.parametrize("rate", [800.0, agreement.ON_TIME_RATE, agreement.OVERLOAD_RATE])
@pytest.mark.parametrize("p99_ms", [20.0, 90.0])
def test_a_row_without_such_a_run_is_not_judged(rate, p99_ms):
    row = agreement.judged(rate, [beside(40.0, p99_ms), beside(29.4, p99_ms)])
    assert row["ok"] == LATE
    assert (row["judged"], row["p99_ms"]) == (0, p99_ms)


def test_requests_of_a_slow_core_are_reported_separately():
    row = agreement.judged(800.0, [beside(1.0, calm_share=0.5, of_all_p99_ms=90.0)])
    assert row["ok"] is True
    assert (row["p99_ms"], row["of_all"]["p99_ms"], row["calm_share"]) == (20.0, 90.0, 0.5)
    why = agreement.judged(800.0, [beside(1.0, calm_share=0.09)])["ok"]
    assert why == "not judged: a core was slow too often (9% of the requests saw nothing of it)"


def changing(late_ms, lost=0, **rest):
    """A run of the tuning benchmark."""
    run = {"requests": 1000, "refused": {}, "late": 0, "wrong": [], "of_all": {"lost": lost}}
    return sent(late_ms, **run | rest)


def tuned(*rounds):
    """The checks of rounds of a constant and a changing run, without the words."""
    pairs = [dict(zip((False, True), each, strict=True)) for each in rounds]
    return list(tuning.judged(pairs, [run for each in rounds for run in each]).values())


def test_a_round_with_a_late_load_says_nothing_of_late_requests():
    good, late = (changing(1.0), changing(1.0)), (changing(1.0), changing(14.7, late=500))
    assert tuned(good, late) == [True] * 4
    assert tuned(good, (changing(1.0), changing(1.0, late=500))) == [True, True, True, False]
    said = "not judged: the load was sent late (p99.9 29.4 ms)"
    assert tuned(late) == [True, True, said, said]


def test_a_run_that_was_repeated_still_counts_for_losses_and_wrong_answers():
    kept = {False: changing(1.0), True: changing(1.0)}
    repeated = changing(29.4, lost=1, wrong=["was taken"])
    assert list(tuning.judged([kept], [*kept.values(), repeated]).values())[:2] == [False, False]


def test_whether_a_what_if_moved_far_is_settled_by_those_that_were_judged(script):
    moved = script("replay")._moved
    far, near = {"ok": True, "p99_moved": -0.5}, {"ok": False, "p99_moved": 0.1}
    unknown = {"ok": LATE, "p99_moved": -0.5}
    assert moved([far, unknown]) is True
    assert moved([near, near]) is False
    assert moved([near, unknown]) == LATE


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("load", "poisson --rate 9"),
        ("load", "agreement"),
        ("load", "tuning"),
        ("replay", "whatif"),
    ],
)
def test_every_open_loop_repeats_three_times_at_most_by_default(script, folder, line):
    parser = script(folder).parser()
    assert parser.parse_args(line.split()).repeats == 3
    assert parser.parse_args([*line.split(), "--repeats", "0"]).repeats == 0


def test_calls_are_made_by_no_grpc_client_unless_asked_for(script):
    parser = script("load").parser()
    for option, client in ((), Calls), (("--client", "grpc"), GrpcCalls):
        options = parser.parse_args(["poisson", "--rate", "9", *option])
        assert poisson.CLIENTS[options.client] is client


def test_steal_is_read_by_core(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 1 2 3 4 5 6 7 300 9 10\ncpu1 1 2 3 4 5 6 7 500 9 10\n"
    )
    ticks = machine._TICKS_PER_SECOND
    assert machine.steal_seconds(1, stat) == 500 / ticks
    with pytest.raises(ValueError, match="no core 7"):
        machine.steal_seconds(7, stat)


def test_steal_is_a_share_of_the_time_inside():
    core = min(os.sched_getaffinity(0))
    with machine.Steal({"server": core}) as steal:
        pass
    assert steal.shares.keys() == {"server"}
    assert steal.shares["server"] >= 0
