"""Other people's model servers as processes on loopback, and batcher in front of them.

A server that cannot be installed or cannot run here skips its tests with the reason. Every process
is killed by its number at the end, also when a test fails.
"""

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "neighbors"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import environments
import model_servers

from batcher.testing.server import ServerProcess

BATCH_S = {"base_s": 0.002, "per_row_s": 0.0002}
"""What a batch of a neighbor's model `double` takes."""

TENSORS = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 16]}],
    "outputs": [
        {"name": "Y", "datatype": "FP32", "shape": [-1, 16]},
        {"name": "BATCH", "datatype": "INT32", "shape": [-1, 1]},
    ],
}
"""Those of `double`, for servers that do not say what a model takes."""


@contextmanager
def running(make, folder, *, started=True, **settings):
    """A neighbor that is ready, or that the test will start."""
    try:
        server = make(folder, **settings)
    except environments.CannotMakeError as error:
        pytest.skip(str(error))
    try:
        if started:
            server.start()
            server.await_ready()
        yield server
    finally:
        server.kill()


def served(name, executor, options, *, target="200ms", **rest):
    """A model of the configuration that is executed by a neighbor."""
    return {
        "name": name,
        "executor": executor,
        "options": options,
        "batching": {"target_p99": target},
        **rest,
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts batcher with models; all of them end with the module."""
    with ExitStack() as stack:

        def start(*models, **server):
            folder = tmp_path_factory.mktemp("batcher")
            config = {"models": list(models), "server": server}
            return stack.enter_context(ServerProcess(config, folder=folder))

        yield start


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(model_servers.Triton, tmp_path_factory.mktemp("triton"), **BATCH_S) as server:
        yield server


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    with running(model_servers.MLServer, tmp_path_factory.mktemp("mlserver"), **BATCH_S) as server:
        yield server


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchserve")
    with running(model_servers.TorchServe, folder, **BATCH_S) as server:
        yield server
