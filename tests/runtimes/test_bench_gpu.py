"""The benchmark of a GPU, as far as it goes without one: its options, its models, tiny runs on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

import torch

FOLDER = Path(__file__).parents[2] / "bench" / "gpu"
BENCH = FOLDER.parent


@pytest.fixture
def bench(monkeypatch):
    """The benchmark's modules, by name, as it finds them itself."""
    for folder in (BENCH / "load", BENCH, FOLDER):
        monkeypatch.syspath_prepend(folder)
    names = ("run", "steps", "models", "throughput", "measure", "load", "bars", "machine")

    def load(name):
        __import__(name)
        return sys.modules[name]

    yield load
    for name in names:
        sys.modules.pop(name, None)


def run(*options):
    command = [sys.executable, str(FOLDER / "run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_options_have_defaults_that_fit_into_eight_minutes(bench):
    options = bench("run").arguments([])
    assert (options.device, options.tiny, options.budget) == ("cuda:0", False, 420)
    assert options.load_processes >= 1
    assert bench("run").arguments(["--tiny"]).seconds < options.seconds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--models", "resnet,gpt"], "got gpt; allowed: resnet, encoder"),
        (["--budget", "0"], "more than 0"),
        (["--seconds", "-1"], "more than 0"),
        (["--seconds", "x"], "invalid float value"),
    ],
)
def test_wrong_options_are_named(bench, capsys, given, said):
    with pytest.raises(SystemExit) as caught:
        bench("run").arguments(given)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_skipped():
    done = run()
    assert done.returncode == 77
    assert done.stdout.startswith("skipped: there is no NVIDIA GPU")


def parameters(model):
    return sum(each.numel() for each in model.parameters())


def test_the_models_have_the_sizes_of_their_names(bench):
    models = bench("models")
    resnet, encoder = models.kinds(tiny=False)
    with torch.device("meta"):
        assert parameters(models.resnet(**resnet.args, dtype="bf16")) == 25_557_032
        count = parameters(models.encoder(**encoder.args, dtype="bf16"))
    assert count == pytest.approx(109_482_240, rel=0.01)  # BERT-base, uncased
    assert resnet.inputs == (("image", "UINT8", (3, 224, 224)),)


@pytest.mark.parametrize("place", [0, 1])
def test_a_row_of_the_models_does_not_depend_on_others(bench, place):
    models = bench("models")
    kind = models.kinds(tiny=True)[place]
    model = getattr(models, kind.name)(**kind.args, dtype="fp32").eval()
    generator = torch.Generator().manual_seed(3)
    inputs = [
        torch.randint(0, min(kind.below, 100), (4, *shape), generator=generator)
        for _, _, shape in kind.inputs
    ]
    with torch.inference_mode():
        whole = model(*inputs)
        alone = torch.cat([model(*[each[row : row + 1] for each in inputs]) for row in range(4)])
    assert whole.shape == (4, kind.output[1])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_everything_works_on_a_cpu_with_tiny_models(tmp_path):
    output = tmp_path / "gpu.json"
    done = run("--device", "cpu", "--tiny", "--models", "encoder", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    encoder = found["models"]["encoder"]
    assert list(encoder["profile"]["sizes"]) == ["1", "2", "4"]
    assert all(each["p50_ms"] > 0 for each in encoder["profile"]["sizes"].values())
    assert encoder["loop"]["rows_per_s"].keys() == {"plain"}
    assert encoder["server"]["rows_per_s"] > 0
    assert "checks" not in found
    assert "server" in done.stdout


def test_steps_without_time_are_left_out_and_a_bar_is_not_judged(bench, capsys):
    options = bench("run").arguments(["--budget", "0.001"])
    steps = bench("steps")
    measured = steps.Bench(options)
    measured.run()
    assert set(measured.result["models"]) == {"resnet", "encoder"}
    assert not any(measured.result["models"].values())
    assert "resnet: profile" in measured.result["left_out"]
    assert set(measured.result["checks"].values()) == {"not judged: a step was left out"}
    assert bench("bars").exit_code(measured.result) == 1
    assert "resnet: server, graphs: left out: 45 s are needed" in capsys.readouterr().out


def test_the_bar_is_a_share_of_the_loop(bench):
    options = bench("run").arguments(["--models", "resnet"])
    measured = bench("steps").Bench(options)
    found = measured.result["models"]["resnet"]
    found["loop"] = {"rows": 64, "rows_per_s": {"plain": 50.0, "pinned": 90.0, "pipelined": 100.0}}
    for rate, held in ((89.0, False), (90.0, True)):
        found["server"] = {"rows_per_s": rate, "load_cores": 1.0}
        measured._judge()
        assert list(measured.result["checks"].values()) == [held]
    assert "server / loop 0.900" in bench("steps").table(measured.result)


def test_on_a_gpu_graphs_and_pipelining_are_measured_with_and_without(bench, monkeypatch):
    steps = bench("steps")
    done = []

    def child(self, what, kind, executor, options, seconds, *, fixed=False):
        done.append((what, options.get("cuda_graphs", False), fixed))
        rates = {"plain": 50.0, "pinned": 90.0, "pipelined": 100.0}
        size = {"p50_ms": 1.0, "p95_ms": 2.0}
        return {"rows": 64, "rows_per_s": rates} if what == "loop" else {"sizes": {"1": size}}

    def server(model, kind, **rest):
        sizes = model["batching"].get("batch_sizes", [])
        done.append(("server", model["options"].get("cuda_graphs", False), len(sizes)))
        done[-1] += () if model.get("pipelining", True) else ("not pipelined",)
        return {"rows_per_s": 95.0, "load_cores": 1.0}

    monkeypatch.setattr(steps.Bench, "_child", child)
    monkeypatch.setattr(steps, "server_throughput", server)
    measured = steps.Bench(bench("run").arguments(["--models", "resnet"]))
    measured.run()
    assert done[:6] == [
        ("profile", False, False),
        ("loop", False, False),
        ("server", False, 0),
        ("profile", True, True),
        ("server", True, 7),
        ("server", False, 0, "not pipelined"),
    ]
    assert list(measured.result["checks"].values()) == [True]
    assert bench("bars").exit_code(measured.result) == 0


def test_a_step_that_fails_is_told_and_the_others_go_on(bench, monkeypatch, capsys):
    steps = bench("steps")
    measured = steps.Bench(bench("run").arguments(["--device", "cpu", "--tiny"]))
    monkeypatch.setattr(steps, "HERE", Path("/nowhere"))
    monkeypatch.setattr(
        steps, "server_throughput", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("a\nb"))
    )
    measured.run()
    assert measured.result["left_out"]["resnet: server"] == "b"
    assert "No such file or directory" in measured.result["left_out"]["resnet: profile"]
