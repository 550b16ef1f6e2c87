"""The unmodified `perf_analyzer` measures the server and prints what the server counted."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from batcher.testing.server import ServerProcess, free_address

FETCH = Path(__file__).parents[3] / "tools" / "fetch_perf_analyzer.py"
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
