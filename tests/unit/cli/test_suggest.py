"""`batcher suggest` from end to end: what it prints loads, and holds when it is simulated."""

import json

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.config import load_config, parse_config
from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.settings import Adaptive, ModelSettings
from batcher.simulation import Driver
from batcher.testing.recording import RecordedScheduler

HELLO = """
models:
  - name: hello
    executor: emulated
    options: {base: 5ms, per_row: 0.5ms}
    batching: {max_batch_size: 32}
"""
TWO = """
models:
  - {name: a, executor: elsewhere}
  - {name: b, executor: elsewhere}
"""


def profile_of(*names, sizes=(1, 4, 16, 32), buckets=()):
    def times(length):
        every = {rows: 5 + 0.005 * rows * length for rows in sizes}
        return {
            str(rows): {"samples": 9, "mean": ms} | dict.fromkeys(("p50", "p90", "p95", "p99"), ms)
            for rows, ms in every.items()
        }

    models = [
        {"model": name, "model_version": "1", "executor": "e", "device": "cpu", "sizes": times(100)}
        | ({"buckets": {str(n): times(n) for n in buckets}} if buckets else {})
        for name in names
    ]
    return json.dumps({"version": 1, "models": models})


@pytest.fixture
def profile(tmp_path):
    """Write a profile of these models; returns its path."""

    def call(*names, **given):
        path = tmp_path / "profile.json"
        path.write_text(profile_of(*names, **given))
        return path

    return call


def piece(stdout):
    """The configuration in what was printed."""
    return stdout[stdout.index("models:\n") :]


@pytest.mark.slow
def test_the_settings_load_and_hold_in_the_simulator(run, write, profile, tmp_path):
    times = profile("hello")
    result = run(
        *("suggest", write(HELLO), "--profile", times, "--rate", "700", "--requests", "2000")
    )
    assert result.exit_code == 0, result.stderr
    config = parse_config(piece(result.stdout))
    (model,) = config.models
    assert (model.name, model.executor, model.batching.policy) == ("hello", "emulated", "adaptive")
    assert model.batching.max_batch_size == 32
    assert model.batching.target_p99 is not None
    target_ms = model.batching.target_p99 // 1_000_000
    assert 5 < target_ms < 100
    assert "<- target_p99" in result.stdout
    assert "<- max_batch_size" in result.stdout
    assert result.stdout.count("without what the server itself, its callers and the network") == 1

    suggested = tmp_path / "suggested.yaml"
    suggested.write_text(piece(result.stdout))
    load_config(suggested)
    simulated = run(
        *("simulate", suggested, "--profile", times, "--arrivals", "poisson:840", "--json"),
        *("--requests", "2000", "--no-optimum"),
    )
    counts = json.loads(simulated.stdout)
    assert counts["on_time"] >= 0.99 * counts["requests"]


@pytest.mark.slow
def test_several_rates_where_none_is_given(run, write, profile):
    result = run("suggest", write(HELLO), "--profile", profile("hello"), "--requests", "300")
    assert result.exit_code == 0, result.stderr
    assert "no rate was given" in result.stdout
    assert "<- settings below" in result.stdout
    parse_config(piece(result.stdout))


@pytest.mark.slow
def test_a_model_is_measured_where_no_times_are_given(run, write):
    config = write(HELLO.replace("32", "2"))
    result = run("suggest", config, "--rate", "10", "--requests", "200")
    assert result.exit_code == 0, result.stderr
    assert "measuring hello with emulated on cpu: batches of 1, 2 rows, 20 of each" in result.stderr
    assert "service times measured now" in result.stdout


@pytest.mark.slow
def test_buckets_are_suggested_for_lengths(run, write, profile, tmp_path):
    config = write("""
models:
  - name: m
    executor: elsewhere
    padding:
      - {input: ids, axis: 1, value: 0, buckets: &b [50, 200]}
      - {input: mask, axis: 1, value: 0, buckets: *b}
""")
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("20,90\n190,10\n")
    result = run(
        *("suggest", config, "--profile", profile("m", buckets=(50, 200)), "--rate", "500"),
        *("--lengths", lengths, "--requests", "300"),
    )
    assert result.exit_code == 0, result.stderr
    (model,) = parse_config(piece(result.stdout)).models
    ids, mask = model.padding
    assert (ids.input, ids.axis, ids.value, mask.input) == ("ids", 1, 0, "mask")
    assert ids.buckets == mask.buckets
    assert ids.buckets[-1] == 200
    assert "<- buckets" in result.stdout


def test_callers_with_a_deadline_are_the_limit(run, write, profile):
    result = run(
        *("suggest", write(HELLO), "--profile", profile("hello"), "--rate", "300"),
        *("--deadline", "2s", "--requests", "300"),
    )
    assert result.exit_code == 0, result.stderr
    assert "limit: deadline" in piece(result.stdout)


@pytest.mark.slow
def test_the_plot_is_a_picture(run, write, profile, tmp_path):
    picture = tmp_path / "out.png"
    result = run(
        *("suggest", write(HELLO), "--profile", profile("hello"), "--rate", "300"),
        *("--requests", "200", "--plot", picture),
    )
    assert result.exit_code == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"written: {picture}" in result.stdout


@pytest.mark.slow
def test_a_rate_beyond_the_device_ends_with_1_and_says_why(run, write, profile):
    result = run(
        *("suggest", write(HELLO), "--profile", profile("hello"), "--rate", "9000"),
        *("--requests", "500"),
    )
    assert result.exit_code == 1
    assert "no target holds: at 10,800 requests/s" in result.stdout
    assert "add instances or devices" in result.stdout
    assert "models:" not in result.stdout


@pytest.mark.slow
def test_recorded_requests_are_a_load_with_times(run, write, tmp_path):
    log = tmp_path / "journal"
    log.mkdir()

    def story():
        yield 0, DeviceConfigured("cpu", 1)
        settings = ModelSettings(8, Adaptive(), target_ns=50 * MILLISECOND)
        yield 0, ModelConfigured("hello/1", settings)
        yield 0, InstanceUp("hello/1#0", 1, "hello/1", "cpu")
        for number in range(1, 800):
            at_ns = number * 7 * MILLISECOND
            yield at_ns, RequestArrived(number, "hello/1", 1, 16, (), "", at_ns)

    with RecordedScheduler(log, segment_ns=SECOND, models={}) as scheduler:
        Driver(scheduler, lambda d: 9 * MILLISECOND, observe=lambda n, c: None).run(story())
    result = run("suggest", write(HELLO), "--arrivals", log, "--requests", "400")
    assert result.exit_code == 0, result.stderr
    said = result.stdout
    assert "service times as recorded, those of more than " in said
    assert "targets at 171 requests/s: the rate, 143, plus 20%" in said
    assert parse_config(piece(said)).models[0].batching.target_p99 is not None
    other = write("models: [{name: other, executor: emulated}]")
    result = run("suggest", other, "--arrivals", log)
    assert result.exit_code == 2
    assert "the log has no request of other/1; it has those of hello/1" in result.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "the configuration has several models; choose --model a, b"),
        (("--model", "c"), "--model: got 'c'; allowed: a, b"),
        (("--model", "b"), "--profile: has a version 1; model 'b' is version 1"),
        (("--model", "a", "--rate", "0"), "--rate: got 0; allowed: requests a second above 0"),
        (("--model", "a", "--arrivals", "closed:4"), "--arrivals: got a closed loop"),
        (("--model", "a", "--rows", "x"), "--rows: got 'x'"),
        (("--model", "a", "--lengths", "/none"), "--lengths: /none: cannot be read"),
        (("--model", "a", "--plot", "out.txt"), "--plot: got out.txt"),
    ],
)
def test_a_wrong_option_ends_with_2(run, write, profile, options, text):
    result = run("suggest", write(TWO), "--profile", profile("a"), *options)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
