"""Commands on a configuration with a model repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "repository" / "batcher.yaml"
EMULATED = "executor: emulated\noptions: {base: 1ms, columns: 2}\n"


@pytest.fixture
def repository(tmp_path):
    """A function that writes a model, as file name -> text, and its version 1."""

    def write(name, **files):
        folder = tmp_path / "models" / name
        (folder / "1").mkdir(parents=True)
        for stem, text in files.items():
            suffix = "pbtxt" if stem == "config" else "yaml"
            (folder / f"{stem}.{suffix}").write_text(text)

    (tmp_path / "models").mkdir()
    return write


CONFIG = "model_repository: {path: models}\n"


@pytest.mark.slow
def test_check_loads_the_example(run):
    result = run("check", "--load", EXAMPLE)
    assert result.exit_code == 0, result.output
    assert "loaded hello:1:" in result.stdout
    assert "loaded ranker:1:" in result.stdout
    note = (
        "note: hello: dynamic_batching.max_queue_delay_microseconds (line 5): ignored: the policy"
    )
    assert note in result.stdout


def test_check_names_every_problem_of_every_model(run, write, repository):
    repository("good", batcher=EMULATED)
    repository("wrong", config="max_batch_size: -3", batcher=EMULATED)
    repository("python", config='backend: "python"')
    repository("typo", batcher="executor: emulatd\n")
    repository("options", batcher="executor: emulated\noptions: {bas: 1ms}\n")
    repository("both", batcher=EMULATED)
    result = run("check", write(CONFIG + "models: [{name: both, executor: emulated}]\n"))
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    for problem in (
        "wrong: ",
        "max_batch_size (line 1): got -3; allowed: 0 or more",
        "python version 1: ",
        "Triton's Python backend is not there",
        'typo version 1: executor: got "emulatd"; allowed: emulated',
        "options version 1: options.bas: unknown key; did you mean base?",
        "both: a model of that name is in `models`, too; rename one",
    ):
        assert problem in text, problem
    assert "good" not in text


def test_a_budget_of_defaults_splits_the_target_that_a_model_has(run, write, repository):
    """One whose own target, or lack of one, the budget does not suit is refused with both sides."""
    defaults = "{batching: {target_p99: 40ms}, budget: {queue: 30ms}}"
    config = f"model_repository: {{path: models, defaults: {defaults}}}\n"
    repository("usual", config="max_batch_size: 8", batcher=EMULATED)
    repository("own", batcher=EMULATED + "budget: {execute: 5ms, queue: 10ms}\n")
    result = run("check", write(config))
    assert result.exit_code == 0, result.output
    left = "left for admission, execute, reply"
    assert f"budget: usual:1 of 40ms: queue 30ms; 10ms {left}" in result.stdout
    assert "budget: own:1 of 40ms: queue 10ms, execute 5ms; 25ms left" in result.stdout
    repository("short", batcher=EMULATED + "batching: {target_p99: 20ms}\n")
    repository("none", batcher=EMULATED + "batching: {target_p99: null}\n")
    result = run("check", write(config))
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert "short: budget: queue is 30ms; allowed: at most batching.target_p99" in text
    assert "none: budget: no effect without a target to split" in text


@pytest.mark.slow
def test_check_names_models_that_do_not_load(run, write, repository):
    repository("broken", config='backend: "onnxruntime"')
    (Path(write(CONFIG)).parent / "models" / "broken" / "1" / "model.onnx").write_bytes(b"x")
    pytest.importorskip("onnxruntime")
    result = run("check", "--load", write(CONFIG))
    assert result.exit_code == 2
    assert "is not a complete ONNX model" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model_repository: {path: nope}", "model_repository.path (line 1): "),
        (
            "model_repository: {path: models, control: explicit, load: [x]}",
            "model_repository.load[0] (line 1): got x; allowed: a model of",
        ),
        ("model_repository: {path: models, load: [x]}", "no effect under control poll"),
        (
            "model_repository: {path: models, poll_interval: 5ms}",
            'got "5ms"; allowed: at least 0.1s',
        ),
        (
            "model_repository: {path: models, control: explicit, load: [x, x]}",
            'load[1] (line 1): got "x"; allowed: each model once',
        ),
        (
            "model_repository: {path: models, defaults: {name: x}}",
            "model_repository.defaults.name (line 1): unknown key",
        ),
        (
            "model_repository: {path: models, defaults: {batching: {target_p99: 5}}}",
            "model_repository.defaults.batching.target_p99 (line 1): got 5; allowed: a number with a unit",
        ),
        ("model_repository: {}", "model_repository.path (line 1): missing; needed: The directory"),
    ],
)
def test_check_names_what_is_wrong_with_the_section(run, write, repository, text, problem):
    result = run("check", write(text))
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())


def test_an_empty_directory_is_right(run, write, repository):
    assert run("check", write(CONFIG)).exit_code == 0


def test_simulate_knows_the_models_of_the_repository(run, write, repository):
    repository("hello", batcher=EMULATED + "batching: {target_p99: 50ms}\n")
    path = write(CONFIG)
    result = run("simulate", path, "--arrivals", "poisson:100", "--requests", "50", "--json")
    assert result.exit_code == 0, result.output
    assert '"policy"' in result.stdout


def test_commands_about_one_model_say_that_there_is_none(run, write, repository):
    repository("python", config='backend: "python"')
    result = run("simulate", write(CONFIG), "--arrivals", "poisson:100")
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert "there is no model that can be served" in text
    assert "Triton's Python backend" in text
