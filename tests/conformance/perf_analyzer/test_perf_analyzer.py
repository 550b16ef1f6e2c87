"""The unmodified `perf_analyzer` measures the server and prints what the server counted."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from batcher.testing.server import ServerProcess, free_address

FETCH = Path(__file__).parents[3] / "tools" / "fetch_perf_analyzer.py"
FAKE_NVML = Path(__file__).parents[2] / "fake_nvml" / "path"
EXAMPLE = Path(__file__).parents[3] / "examples" / "sequences" / "make_model.py"
CONFIG = {
    "models": [
        {
            "name": "hello",
            "executor": "emulated",
            "options": {"base": "1ms", "per_row": "100us", "columns": 16},
            "batching": {"policy": "fixed", "max_batch_size": 8},
        }
    ]
}
# Short windows are enough: the question is whether the two understand each other. It takes three
# that agree, so the tolerance is wide, for busy machines.
IN_FLIGHT = 4
SHORT = ["--measurement-interval", "300", "--max-trials", "10", "--stability-percentage", "400"]

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def perf_analyzer():
    """Its path; skips with the reason where it cannot be had."""
    done = subprocess.run(
        [sys.executable, FETCH], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return done.stdout.strip()


@pytest.fixture(scope="module", params=("grpcio", "builtin"))
def server(request):
    server = {"transport": request.param, "admin": [free_address()]}
    with ServerProcess(CONFIG | {"server": server}) as running:
        yield running


def test_it_runs_on_the_admin_listener(perf_analyzer, server):
    """Models are loaded and unloaded by calls of other clients: it has none for a server over gRPC."""
    done = subprocess.run(
        [perf_analyzer, "-m", "hello", "-u", server.admin, "-i", "grpc", *SHORT],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{server.log()}"


@pytest.mark.parametrize(
    "mode",
    [[], ["--async"], ["--streaming"], ["-b", "4"], ["--request-rate-range", "200"]],
    ids=["calls", "async", "streaming", "rows", "rate"],
)
def test_a_run_completes_with_server_side_statistics(perf_analyzer, server, mode):
    load = [] if "--request-rate-range" in mode else ["--concurrency-range", str(IN_FLIGHT)]
    done = subprocess.run(
        [perf_analyzer, "-m", "hello", "-u", server.grpc, "-i", "grpc", *SHORT, *load, *mode],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = f"{done.stdout}\n{done.stderr}\n{server.log()}"
    assert done.returncode == 0, said
    counted = re.search(r"Server:\s+Inference count: (\d+)\s+Execution count: (\d+)", said)
    assert counted, said
    inferences, executions = map(int, counted.groups())
    # Both are differences of two readings. A batch counts when it was executed and its requests when
    # they were answered, so those in flight at a reading are in one number and not in the other.
    assert inferences + IN_FLIGHT >= executions > 0
    parts = re.search(
        r"queue (\d+) usec \+ compute input \d+ usec \+ compute infer (\d+) usec", said
    )
    assert parts, said
    assert int(parts[2]) >= 1000, "an execution costs more than 1 ms"


GPU = "GPU-1b2c3d4e-0000-4000-8000-000000000000"
UTILIZATION, POWER_MW, USED, TOTAL = 87, 412_351, 40_265_318_400, 85_520_809_984


@pytest.fixture(scope="module", params=("grpcio", "builtin"))
def dashboards(request, tmp_path_factory):
    """A server with Triton's names, and a GPU that is not there."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "gpus.json").write_text(
        json.dumps(
            {
                "gpus": [
                    {
                        "uuid": GPU,
                        "utilization": UTILIZATION,
                        "power_mw": POWER_MW,
                        "memory_used": USED,
                        "memory_total": TOTAL,
                    }
                ]
            }
        )
    )
    environ = {
        "FAKE_NVML": str(folder / "gpus.json"),
        "PYTHONPATH": os.pathsep.join([str(FAKE_NVML), os.environ.get("PYTHONPATH", "")]),
    }
    (model,) = CONFIG["models"]
    config = {
        "models": [model | {"device": "gpu0"}],
        "devices": {"gpu0": {"gpu": 0, "max_in_flight": 1}},
        "metrics": {"triton_names": True},
        "server": {"transport": request.param},
    }
    with ServerProcess(config, folder=folder, environ=environ) as running:
        yield running


def metrics(server):
    """Each line of a scrape: series -> value."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"
    }


def test_it_collects_metrics_under_tritons_names(perf_analyzer, dashboards, tmp_path):
    report = tmp_path / "report.csv"
    collects = ["--collect-metrics", "--verbose-csv", "--metrics-interval", "100"]
    where = ["--metrics-url", f"http://{dashboards.http}/metrics", "-f", str(report)]
    load = ["--concurrency-range", str(IN_FLIGHT), "-b", "2", *SHORT]
    target = ["-m", "hello", "-u", dashboards.grpc, "-i", "grpc"]
    done = subprocess.run(
        [perf_analyzer, *target, *load, *collects, *where],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = f"{done.stdout}\n{done.stderr}\n{dashboards.log()}"
    assert done.returncode == 0, said
    assert "Unable to parse" not in said
    (row,) = csv.DictReader(report.read_text().splitlines())
    read = {name: value for name, value in row.items() if "GPU" in name or "Memory" in name}
    expected = {
        "Avg GPU Utilization": UTILIZATION / 100,
        "Avg GPU Power Usage": POWER_MW / 1000,
        "Max GPU Memory Usage": USED,
        "Total GPU Memory": TOTAL,
    }
    for name, value in expected.items():
        uuid, _, text = read[name].rstrip(";").partition(":")
        assert (uuid, float(text)) == (GPU, pytest.approx(value, rel=1e-3)), read

    # Nothing is in flight any more, so the counts stand still.
    found = metrics(dashboards)
    model = 'model="hello",version="1"'
    for triton, ours in (
        (
            f"nv_inference_request_success{{{model}}}",
            'requests_total{model="hello",outcome="ok",reason="",version="1"}',
        ),
        (f"nv_inference_count{{{model}}}", f"batch_rows_sum{{{model}}}"),
        (f"nv_inference_exec_count{{{model}}}", f"batch_rows_count{{{model}}}"),
        (f"nv_inference_pending_request_count{{{model}}}", f"queue_requests{{{model}}}"),
    ):
        assert found[triton] == found[f"batcher_{ours}"], triton
    assert found[f"nv_inference_request_success{{{model}}}"] > 0
    assert (
        found[f"nv_inference_count{{{model}}}"]
        == 2 * found[f"nv_inference_request_success{{{model}}}"]
    )
    for triton, stage in (
        ("queue", "queue"),
        ("compute_input", "gather"),
        ("compute_infer", "execute"),
        ("compute_output", "scatter"),
    ):
        us = found[f"nv_inference_{triton}_duration_us{{{model}}}"]
        seconds = found[
            f'batcher_stage_duration_seconds_sum{{model="hello",stage="{stage}",version="1"}}'
        ]
        assert abs(us - seconds * 1e6) < 1
    us = found[f"nv_inference_request_duration_us{{{model}}}"]
    ours = found['batcher_request_duration_seconds_sum{model="hello",outcome="ok",version="1"}']
    assert abs(us - ours * 1e6) < 1


@pytest.fixture(scope="module", params=("grpcio", "builtin"))
def sequences(request, tmp_path_factory):
    """A server with the recurrent model of examples/sequences."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    build = runpy.run_path(str(EXAMPLE))["build_model"]
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    path.write_bytes(build().SerializeToString())
    model = {
        "name": "detector",
        "executor": "onnxruntime",
        "options": {"path": str(path), "providers": ["cpu"]},
        "batching": {"max_batch_size": 8},
        "sequence": {"state": [{"input": "h_in", "output": "h_out"}]},
    }
    with ServerProcess({"models": [model], "server": {"transport": request.param}}) as running:
        yield running


@pytest.mark.parametrize(
    "mode",
    [
        ["--sync", "--concurrency-range", str(IN_FLIGHT)],
        ["--async", "--concurrency-range", str(IN_FLIGHT)],
        ["--streaming", "--concurrency-range", str(IN_FLIGHT)],
        ["--request-rate-range", "200", "--num-of-sequences", str(IN_FLIGHT)],
    ],
    ids=["calls", "async", "streaming", "rate"],
)
def test_its_sequence_mode_runs(perf_analyzer, sequences, mode):
    command = [perf_analyzer, "-m", "detector", "-u", sequences.grpc, "-i", "grpc", *SHORT, *mode]
    done = subprocess.run(
        [*command, "--sequence-length", "10"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = f"{done.stdout}\n{done.stderr}\n{sequences.log()}"
    assert done.returncode == 0, said
    counted = re.search(r"Sequence count: (\d+)", said)
    assert counted, said
    assert int(counted[1]) > 0
