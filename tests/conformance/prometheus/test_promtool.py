"""Prometheus' own linter reads what `/metrics` says."""

import shutil
import subprocess
import urllib.request

import grpc
import numpy as np
import pytest

from batcher import protocol
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess

CONFIG = {
    "models": [
        {
            "name": "hello",
            "executor": "emulated",
            "options": {"columns": 4},
            "batching": {"target_p99": "50ms"},
        },
        {"name": "unused", "executor": "emulated"},
    ]
}

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module", params=("builtin", "grpcio"))
def exposition(request):
    """The metrics of a server that has answered a request and refused one."""
    with ServerProcess(CONFIG | {"server": {"transport": request.param}}) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            infer = protocol.Stub(channel, protocol.INFERENCE).ModelInfer
            infer(infer_request("hello", {"X": np.zeros((1, 4), np.float32)}), timeout=30)
            with pytest.raises(grpc.RpcError):
                infer(infer_request("hello", {"X": np.zeros((1, 5), np.float32)}), timeout=30)
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=30) as answer:
            yield answer.read()


def test_the_linter_is_silent(exposition):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (.ci/packages.txt)")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
