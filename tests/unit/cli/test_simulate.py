import json

import pytest

HELLO = """
models:
  - name: hello
    executor: emulated
    options: {base: 5ms, per_row: 0.5ms}
    batching: {max_batch_size: 32, target_p99: 50ms}
"""
TWO = """
models:
  - {name: a, executor: elsewhere, device: g, batching: {max_batch_size: 8, target_p99: 50ms}}
  - {name: b, executor: elsewhere, device: h, batching: {max_batch_size: 16}}
"""


@pytest.fixture
def simulated(run, write):
    """Simulate 400 requests of `hello` unless said otherwise; returns the JSON objects."""

    def call(*options, config=HELLO):
        result = run("simulate", write(config), "--json", "--requests", "400", *options)
        assert result.stderr == ""
        assert result.exit_code == 0
        return [json.loads(line) for line in result.stdout.splitlines()]

    return call


def cells(stdout):
    return [line.split() for line in stdout.splitlines()]


def test_one_policy_is_one_object(simulated):
    (found,) = simulated("--arrivals", "poisson:100")
    assert found["policy"] == "configured"
    assert found["requests"] == found["on_time"] == found["optimum_on_time"] == 400
    assert found["late"] == found["dropped"] == 0
    assert 5.5 <= found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] < 50
    assert 0 < found["busy_fraction"] < 1
    assert 80 < found["goodput"] < 120


def test_the_table_of_policies_and_rates(run, write):
    result = run(
        *("simulate", write(HELLO), "--arrivals", "poisson", "--load", "0.5,1.2"),
        *("--policy", "greedy", "--policy", "none", "--requests", "300", "--seeds", "2"),
    )
    assert result.exit_code == 0
    lines = cells(result.stdout)
    assert (
        result.stdout.splitlines()[0]
        == "models: hello (target 50 ms, at most 32 rows); capacity: 1,524 requests/s of the devices alone"
    )
    assert result.stdout.splitlines()[1].startswith(
        "not known here, so no real server reaches that"
    )
    assert [line[0] for line in lines if line].count("greedy") == 2
    assert [line[0] for line in lines if line].count("(optimum)") == 2
    heading = "policy on time % goodput/s p50 ms p95 ms p99 ms dropped % batches mean rows busy %"
    assert lines.count(heading.split()) == 2
    assert "poisson: 600 requests at " in result.stdout
    assert result.stdout.count("2 seeds") == 2
    assert result.stderr == ""


def test_the_optimum_is_explained_where_it_is_missing(run, write):
    for options, why in [
        (("--rows", "1,2"), "no optimum: requests have more than one row"),
        (("--no-optimum",), "no optimum: --no-optimum"),
    ]:
        result = run(
            "simulate", write(HELLO), "--arrivals", "poisson:99", "--requests", "50", *options
        )
        assert why in result.stdout
        assert "(optimum)" not in result.stdout


def test_equal_seeds_give_equal_runs(simulated):
    first, again, other = (
        simulated("--arrivals", "gamma:500:2", "--seed", seed)[0]["p99_ms"] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_trace_at_a_rate(simulated, tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("".join(f"{n / 10}\n" for n in range(50)))
    (found,) = simulated("--arrivals", path, "--rate", "200")
    assert found["requests"] == 50
    assert found["rate"] == pytest.approx(200, rel=0.03)


def test_closed_loop(simulated):
    (found,) = simulated("--arrivals", "closed:4", "--duration", "1s")
    assert found["p50_ms"] == 7.0
    assert found["optimum_on_time"] is None


def test_service_times_from_a_table(simulated, tmp_path):
    path = tmp_path / "times.json"
    path.write_text('{"1": 20}')
    for option in (path, f"hello={path}"):
        (found,) = simulated("--arrivals", "poisson:1", "--service-times", option)
        assert found["p50_ms"] == 20.0


def test_several_models_tenants_and_priorities(simulated, tmp_path):
    path = tmp_path / "times.json"
    path.write_text('{"1": 5, "8": 9}')
    (found,) = simulated(
        *("--arrivals", "poisson:300", "--service-times", path, "--model", "a=3,b=1"),
        *("--tenants", "x,y", "--priorities", "1,2", "--rows", "1=3,2=1"),
        config=TWO,
    )
    groups = {(g["model"], g["tenant"], g["priority"]): g["requests"] for g in found["groups"]}
    assert len(groups) == 8
    assert sum(groups.values()) == 400
    on_a = sum(count for (model, _, _), count in groups.items() if model == "a")
    assert 260 < on_a < 340


@pytest.mark.parametrize("policy", ["configured", "fixed:2ms", "none", "lazy-drop", "bento"])
def test_requests_of_more_rows_than_a_batch_are_split(simulated, policy):
    (found,) = simulated(
        *("--arrivals", "poisson:1", "--rows", "40", "--target", "1s", "--policy", policy)
    )
    # One batch of 32 rows and one of 8, by far the most often with no other request waiting.
    assert (found["requests"], found["dropped"], found["p50_ms"]) == (400, 0, 21.0 + 9.0)
    assert found["batches"] > 700


def test_a_target_that_one_row_cannot_meet_is_reported(run, write):
    arguments = ("simulate", write(HELLO), "--arrivals", "poisson:9", "--requests", "9")
    warning = (
        "warning: hello cannot meet its target of 1 ms: a batch of one row takes 5.5 ms,"
        " so no request is on time\n"
    )
    for options in ((), ("--json",)):
        assert run(*arguments, *options, "--target", "1ms").stderr == warning
    assert run(*arguments, "--target", "5.5ms").stderr == ""


def test_groups_are_in_the_table(run, write):
    result = run(
        "simulate", write(HELLO), "--arrivals", "poisson:99", "--requests", "50", "--tenants", "x,y"
    )
    rows = [line[:4] for line in cells(result.stdout)]
    assert ["configured", "hello", "x", "-"] in rows
    assert ["configured", "hello", "y", "-"] in rows


def test_delays_and_slowdowns_reach_the_simulation(simulated):
    calm = simulated("--arrivals", "poisson:200")[0]
    for options in (
        ("--noise", "0.5"),
        ("--slowdown", "3x@0-1s"),
        ("--policy", "fixed:5ms"),
        ("--policy", "fixed:5ms", "--timer-delay", "5ms"),
        ("--policy", "greedy", "--batch-gap", "3ms"),
    ):
        disturbed = simulated("--arrivals", "poisson:200", *options)[0]
        assert disturbed["p95_ms"] != calm["p95_ms"]
        calm = disturbed


def test_callers_can_give_up(simulated):
    options = ("--arrivals", "poisson:1500", "--policy", "none", "--deadline", "40ms")
    (found,) = simulated(*options, "--target", "20ms", "--cold")
    assert found["dropped_by"] == {"expired:caller_deadline": found["dropped"]}
    assert found["late"] > 0
    assert found["dropped"] > 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--arrivals", "poison:3"), "--arrivals: got 'poison:3'; allowed: a file or poisson:RATE"),
        (("--arrivals", "none.csv"), "--arrivals: none.csv: cannot be read"),
        (("--arrivals", "poisson"), "--arrivals: got no rate"),
        (("--policy", "x"), "--policy: got 'x'; allowed: configured, "),
        (("--target", "0"), "--target: got '0'; allowed: longer than 0"),
        (("--duration", "5"), "--duration: got '5'; allowed: a number with a unit"),
        (("--model", "q"), "--model: got 'q'; allowed: hello"),
        (("--rows", "1025"), "--rows: got '1025'; allowed: at most 1024 (max_batch_size x"),
        (("--rows", "0"), "--rows: got '0'; allowed: whole numbers from 1 on"),
        (("--priorities", "x"), "--priorities: got 'x'"),
        (("--tenants", "a=0"), "--tenants: got 'a=0'"),
        (("--load", "x"), "--load: got 'x'; allowed: shares of capacity above 0"),
        (("--rate", "1,-1"), "--rate: got '1,-1'; allowed: requests a second above 0"),
        (("--rate", "1", "--load", "1"), "got --rate 1 and --load 1; allowed: one of them"),
        (("--noise", "2"), "--noise: got '2'"),
        (("--timer-delay", "2"), "--timer-delay: got '2'"),
        (
            ("--batch-gap", "2"),
            "--batch-gap: got '2'; allowed: a number with a unit",
        ),
        (("--slowdown", "2"), "--slowdown: got '2'"),
        (("--slowdown", "2x@1s-2s@gpu"), "--slowdown: got the device 'gpu'; allowed: cpu"),
        (("--service-times", "none.json"), "none.json: cannot be read"),
        (("--profile", "none.json"), "none.json: cannot be read"),
    ],
)
def test_a_wrong_option_ends_with_2_and_says_what_is_allowed(run, write, options, text):
    result = run("simulate", write(HELLO), "--arrivals", "poisson:9", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_configuration(run, write):
    result = run("simulate", write("models: []"), "--arrivals", "poisson:9")
    assert result.exit_code == 2
    assert "models" in result.stderr


@pytest.mark.slow
def test_a_plot(simulated, tmp_path):
    path = tmp_path / "out.png"
    simulated("--arrivals", "poisson", "--load", "0.2,0.4", "--plot", path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_is_reported_at_once(run, write):
    result = run("simulate", write(HELLO), "--arrivals", "poisson:9", "--plot", "out.csv")
    assert result.exit_code == 2
    assert "--plot: got out.csv; allowed: a file that ends in" in result.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--handover", "--batch-gap"),
        ("--lateness", "--timer-delay"),
        ("--reply=40us", "--reply-time"),
        ("--slow-spell", "--slowdown"),
    ],
)
def test_an_old_option_is_answered_with_its_new_name(run, write, old, new):
    result = run("simulate", write(HELLO), "--arrivals", "poisson:9", old, "40us")
    assert result.exit_code == 2
    assert f"It is now {new}." in " ".join(result.stderr.split())
