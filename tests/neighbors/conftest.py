"""Other people's model servers as processes on loopback, and batcher in front of them.

A server that cannot be installed or cannot run here skips its tests with the reason. Every process
is killed by its number at the end, also when a test fails.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "neighbors"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import model_servers
from pairs import BATCH_S, running

from batcher.testing.server import ServerProcess


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
