"""`batcher simulate --autoscale`."""

import json

import pytest

from batcher.cli.autoscale_options import MOST_REPLICAS, SHORTEST_SYNC_NS

CONFIG = """
models:
  - name: m
    executor: emulated
    options: {base: 100ms, per_row: 25ms}
    batching: {max_batch_size: 4, target_p99: 500ms}
"""
SMALL = ("--autoscale", "--arrivals", "day:15:60s", "--start-up", "10s")
TWO = ("--set-points", "desired_ratio=0.5,1", "--set-points", "duty_cycle=0.5,0.9")


def test_points_and_what_signals_cost_as_json(run, write):
    result = run("simulate", write(CONFIG), *SMALL, *TWO, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    points = [each for each in found if each["kind"] == "point"]
    assert [(each["signal"], each["set_point"]) for each in points] == [
        ("desired_ratio", 0.5),
        ("desired_ratio", 1.0),
        ("duty_cycle", 0.5),
        ("duty_cycle", 0.9),
    ]
    assert any(each["front"] for each in points)
    for each in points:
        assert each["requests"] == each["on_time"] + each["late"] + each["refused"] + each["lost"]
        assert each["on_time_fraction"] == each["on_time"] / each["requests"]
    costs = {each["signal"]: each["extra_hours"] for each in found if each["kind"] == "signal"}
    assert costs.keys() == {"desired_ratio", "duty_cycle"}
    assert costs["duty_cycle"].keys() == {"0.9", "0.95", "0.99", "0.995"}


def test_the_table_and_the_plot(run, write, tmp_path):
    picture = tmp_path / "fronts.png"
    result = run("simulate", write(CONFIG), *SMALL, *TWO, "--plot", str(picture))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0][0] == "day:15:60s:"
    assert [line[:2] for line in lines].count(["desired_ratio", "0.5"]) == 1
    assert "more replica-hours than the best signal" in result.stdout
    assert picture.stat().st_size > 10_000


def test_a_trace_is_multiplied(run, write, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp\n" + "\n".join(str(second / 2) for second in range(20)))
    result = run(
        *("simulate", write(CONFIG), "--autoscale", "--arrivals", str(trace), "--multiply", "10"),
        *("--signal", "queue_requests", "--json", "--seeds", "2"),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    points = [json.loads(line) for line in result.stdout.splitlines()][:-1]
    assert {each["requests"] for each in points} == {200}
    assert {each["signal"] for each in points} == {"queue_requests"}


def test_from_zero_with_keda(run, write):
    result = run(
        *("simulate", write(CONFIG), *SMALL, "--set-points", "desired_ratio=0.5", "--json"),
        *("--replicas", "0-5", "--keda", "5s:60s", "--start", "0", "--wait", "30s"),
        *("--balancer", "orca", "--average", "15s", "--scale-down", "60s,50%/15s,2/30s,min"),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    point = json.loads(result.stdout.splitlines()[0])
    assert point["on_time"] > 0
    assert point["peak_replicas"] <= 6


DAY = ("--arrivals", "day:15:60s")


def test_the_bounds_of_a_simulated_fleet_are_among_the_limits(repository):
    page = (repository / "docs" / "limits.md").read_text("utf-8")
    assert f"| replicas of a simulated fleet | {MOST_REPLICAS:,} | `--replicas` of" in page
    shortest = f"| {SHORTEST_SYNC_NS / 1e6:g} ms | `--hpa-sync` |"
    assert f"| shortest time between two decisions of the HPA {shortest}" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arrivals", "closed:4"), "closed loop"),
        (("--arrivals", "poisson:40"), "do not end; give --duration"),
        ((*DAY, "--signal", "load"), "--signal: got 'load'; allowed: cpu, duty_cycle"),
        ((*DAY, "--set-points", "0.5"), "--set-points: got '0.5'; allowed: SIGNAL=VALUES"),
        ((*DAY, "--set-points", "cpu=0"), "--set-points: got 'cpu=0'"),
        ((*DAY, "--set-points", "cpu=0.0001"), "--set-points"),
        ((*DAY, "--replicas", "0-5"), "without --keda"),
        ((*DAY, "--replicas", "5-3"), "--replicas: got '5-3'"),
        ((*DAY, "--replicas", "5"), "--replicas: got '5'"),
        ((*DAY, "--replicas", "1-1001"), f"MAX from 1 to {MOST_REPLICAS}"),
        ((*DAY, "--start", "31"), "--start: got 31"),
        ((*DAY, "--start-up", "40"), "--start-up: got '40'"),
        ((*DAY, "--start-up", "40s:x"), "--start-up: got '40s:x'"),
        ((*DAY, "--balancer", "random"), "--balancer: got 'random'; allowed: round_robin"),
        ((*DAY, "--hpa-sync", "0s"), "--hpa-sync"),
        ((*DAY, "--hpa-sync", "99ms"), "--hpa-sync: got 99ms; allowed: from 100ms on"),
        ((*DAY, "--tolerance", "-1"), "--tolerance"),
        ((*DAY, "--scale-up", "0s,4"), "--scale-up: got '0s,4'"),
        ((*DAY, "--scale-down", "2h"), "3600 s, got 7200 s"),
        ((*DAY, "--scale-down", "5m,0/15s"), "--scale-down: got '5m,0/15s'"),
        ((*DAY, "--keda", "0s"), "--keda"),
        ((*DAY, "--scrape", "x"), "--scrape"),
        ((*DAY, "--multiply", "2"), "--multiply: got 2"),
        ((*DAY, "--cpu-share", "1.5"), "--cpu-share"),
        ((*DAY, "--policy", "none", "--policy", "greedy"), "--policy: got several"),
        ((*DAY, "--rate", "10,20"), "--rate and --load: got several"),
        ((*DAY, "--duration", "1ns"), "no request arrives"),
        (("--arrivals", "poisson:1e15", "--duration", "1000h"), "requests would arrive"),
        (("--arrivals", "day:1e9:24h"), "requests would arrive in this day; allowed: at most"),
        ((*DAY, "--optimum"), "--optimum: of no effect with --autoscale"),
        (
            (*DAY, "--signal", "desired_ratio", "--cpu-share", "0.5"),
            "--cpu-share: of no effect on desired_ratio; allowed: with cpu",
        ),
        (
            (*DAY, "--signal", "queue_requests", "--rate-window", "30s"),
            "--rate-window: of no effect on queue_requests; allowed: with cpu, duty_cycle",
        ),
        (
            (*DAY, "--signal", "cpu", "--signal", "duty_cycle", "--average", "30s"),
            "--average: of no effect on cpu, duty_cycle; allowed: with nvml_utilization",
        ),
    ],
)
def test_what_does_not_fit(run, write, options, message):
    result = run("simulate", write(CONFIG), "--autoscale", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_no_trace_is_multiplied_until_memory_ends(run, write, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("0\n1\n")
    options = ("--autoscale", "--arrivals", str(trace), "--multiply", "1000000000000")
    result = run("simulate", write(CONFIG), *options)
    assert result.exit_code == 2
    assert "--multiply: got 1000000000000; allowed: at most" in " ".join(result.stderr.split())


def test_without_a_target_there_is_nothing_to_judge(run, write):
    result = run("simulate", write(CONFIG.replace(", target_p99: 500ms", "")), "--autoscale", *DAY)
    assert result.exit_code == 2
    assert "no model has a target" in result.stderr


@pytest.mark.parametrize("option", [("--keda", "30s"), ("--multiply", "2"), ("--hpa-sync", "15s")])
def test_options_that_would_do_nothing_are_refused(run, write, option):
    result = run("simulate", write(CONFIG), *DAY, *option)
    assert result.exit_code == 2
    assert f"{option[0]} needs --autoscale" in result.stderr
