import json
from dataclasses import replace

import pytest

from batcher.errors import ModelLoadError
from batcher.executor import TensorSpec
from batcher.executors.emulated import EmulatedExecutor
from batcher.simulation.engine.profile import ModelProfile, SizeProfile, read_profile

TWO = """
models:
  - {name: a, executor: emulated, batching: {max_batch_size: 6}}
  - {name: b, executor: emulated, options: {base: 1ms}, batching: {max_batch_size: 2}}
"""


def test_every_model_is_measured_and_the_simulator_reads_it(run, write, tmp_path):
    config, output = write(TWO), tmp_path / "profile.json"
    result = run("profile", config, "-o", output, "--repeats", "2")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "measuring a with emulated on cpu: batches of 1, 2, 4, 6 rows, 2 of each",
        "measuring b with emulated on cpu: batches of 1, 2 rows, 2 of each",
    ]
    rows = [line.split()[:2] for line in result.stdout.splitlines()]
    for row in (["a", "1"], ["a", "4"], ["a", "6"], ["b", "1"], ["b", "2"]):
        assert row in rows
    document = json.loads(output.read_text())
    assert document["version"] == 1
    a, b = document["models"]
    assert (a["model"], a["model_version"], a["executor"], a["device"]) == (
        "a",
        "1",
        "emulated",
        "cpu",
    )
    assert list(a["sizes"]) == ["1", "2", "4", "6"]
    assert b["sizes"]["2"]["samples"] == 2
    assert 1 <= b["sizes"]["2"]["p50"] <= b["sizes"]["2"]["p95"]

    simulated = run("simulate", config, *("--profile", output, "--requests", "9"), "--json",
                    *("--arrivals", "poisson:1", "--model", "b"))  # fmt: skip
    assert json.loads(simulated.stdout)["p50_ms"] == pytest.approx(
        b["sizes"]["1"]["p50"], abs=0.001
    )


def test_one_model_and_some_sizes(run, write, tmp_path):
    output = tmp_path / "profile.json"
    options = ("--model", "a", "--sizes", "6, 2", "--repeats", "1")
    assert run("profile", write(TWO), "-o", output, *options).exit_code == 0
    (model,) = json.loads(output.read_text())["models"]
    assert list(model["sizes"]) == ["2", "6"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--model", "c"), "--model: got 'c'; allowed: a, b"),
        (("--sizes", "0"), "--sizes: got '0'; allowed: 1 to 6, the max_batch_size of a"),
        (("--sizes", "3"), "--sizes: got '3'; allowed: 1 to 2, the max_batch_size of b"),
        (("--sizes", "1,x"), "--sizes: got '1,x'"),
        (("-o", "/none/of/these.json"), "allowed: a file in a folder that exists"),
    ],
)
def test_a_wrong_configuration_ends_with_2(run, write, tmp_path, options, text):
    result = run("profile", write(TWO), "-o", tmp_path / "p.json", *options)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not (tmp_path / "p.json").exists()


def test_a_model_that_does_not_load_ends_with_1(run, write, tmp_path, monkeypatch):
    def load(self, context):
        raise ModelLoadError("the device is gone")

    monkeypatch.setattr(EmulatedExecutor, "load", load)
    config = write("models: [{name: m, executor: emulated}]")
    result = run("profile", config, "-o", tmp_path / "p.json")
    assert result.exit_code == 1
    assert "error: the device is gone" in result.stderr


def test_wrong_options_end_with_2(run, write, tmp_path):
    config = write("models: [{name: m, executor: emulated, options: {bas: 1ms}}]")
    result = run("profile", config, "-o", tmp_path / "p.json")
    assert result.exit_code == 2
    assert "did you mean base" in result.stderr


def test_no_option_is_needed(run, write):
    config = write("models: [{name: m, executor: emulated, batching: {max_batch_size: 2}}]")
    result = run("profile", config)
    assert result.exit_code == 0, result.stderr
    heading, *rows = [line.split() for line in result.stdout.splitlines() if line.strip(" ─")]
    assert heading == ["model", "rows", "p50", "ms", "p95", "ms", "rows/s", "ms/row"]
    assert [row[:2] for row in rows] == [["m", "1"], ["m", "2"]]
    assert "written" not in result.stdout


def test_a_padded_model_is_measured_in_every_bucket(run, write, tmp_path, monkeypatch):
    load = EmulatedExecutor.load

    def variable(self, context):
        metadata = load(self, context)
        y, batch = metadata.outputs
        return replace(
            metadata,
            inputs=(TensorSpec("X", "FP32", (-1, -1)),),
            outputs=(replace(y, shape=(-1, -1)), batch),
        )

    monkeypatch.setattr(EmulatedExecutor, "load", variable)
    config = write("""
models:
  - name: m
    executor: emulated
    batching: {max_batch_size: 2}
    padding: [{input: X, axis: 1, buckets: [4, 9]}]
    outputs: [{output: Y, axis: 1, like: {input: X, axis: 1}}]
""")
    output = tmp_path / "profile.json"
    result = run("profile", config, "--repeats", "1", "-o", output)
    assert result.exit_code == 0, result.stderr
    assert "2 buckets" in result.stderr
    rows = [line.split()[:3] for line in result.stdout.splitlines()]
    for row in (["m", "4", "1"], ["m", "4", "2"], ["m", "9", "1"], ["m", "9", "2"]):
        assert row in rows
    (model,) = read_profile(output).values()
    assert list(model.buckets) == [4, 9]
    assert model.sizes == model.buckets[9], "those of the longest bucket"


@pytest.mark.slow
def test_it_goes_on_to_suggest(run, write, monkeypatch):
    async def measured(*_):
        sizes = {1: SizeProfile.of([5_000_000]), 2: SizeProfile.of([6_000_000])}
        return [ModelProfile("m", "1", "emulated", "cpu", sizes)]

    monkeypatch.setattr("batcher.cli.measuring.measure_models", measured)
    for name, shares in (("SWEEP", (0.3,)), ("CURVE", (0.5,))):
        monkeypatch.setattr(f"batcher.simulation.compare.suggest.{name}", shares)
    config = write("models: [{name: m, executor: emulated, batching: {max_batch_size: 2}}]")
    result = run("profile", config, "--suggest")
    assert "no rate was given" in result.stdout
    assert "batching: {policy: adaptive" in result.stdout
    assert result.exit_code == 0
