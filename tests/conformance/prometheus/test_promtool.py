"""Prometheus' own linter reads what `/metrics` says."""

import shutil
import subprocess
import urllib.request

import grpc
import numpy as np
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from truth.scene import describe_gpu, fake_nvml_path

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
        {
            "name": "unused",
            "executor": "emulated",
            "device": "gpu0",
            "queue": {"tenants": {"gold": 2}},
        },
    ],
    "devices": {"gpu0": {"gpu": 0}},
}

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


def scraped(server, accept):
    asked = urllib.request.Request(f"http://{server.http}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith(accept)
        return answer.read()


@pytest.fixture(scope="module", params=("builtin", "grpcio"))
def server(request, tmp_path_factory):
    """A server with a GPU that has answered a request and refused one."""
    folder = tmp_path_factory.mktemp("promtool")
    describe_gpu(folder, {"product": "NVIDIA H100 80GB HBM3"})
    environ = {"FAKE_NVML": str(folder / "nvml.json"), "PYTHONPATH": fake_nvml_path()}
    config = CONFIG | {"server": {"transport": request.param}}
    with ServerProcess(config, folder=folder, environ=environ) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            infer = protocol.Stub(channel, protocol.INFERENCE).ModelInfer
            infer(infer_request("hello", {"X": np.zeros((1, 4), np.float32)}), timeout=30)
            with pytest.raises(grpc.RpcError):
                infer(infer_request("hello", {"X": np.zeros((1, 5), np.float32)}), timeout=30)
        yield server


def test_the_linter_is_silent(server):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (.ci/packages.txt)")
    exposition = scraped(server, "text/plain")
    assert b"batcher_device_info" in exposition
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_openmetrics_says_the_same(server):
    """The linter cannot read that format: a strict parser does, and finds the same families in it."""
    text = parser.text_string_to_metric_families(scraped(server, "text/plain").decode())
    openmetrics = scraped(server, "application/openmetrics-text; version=1.0.0").decode()
    assert openmetrics.endswith("# EOF\n")

    def read(families):
        return {family.name: (family.type, family.documentation) for family in families}

    assert read(openmetrics_parser.text_string_to_metric_families(openmetrics)) == read(text)
