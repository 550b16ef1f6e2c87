"""`batcher scaler` and `batcher serve` as processes."""

import asyncio
import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from grpc import aio

from batcher import protocol
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess

MODEL = {
    "name": "ranker",
    "executor": "emulated",
    "options": {"base": "2ms", "columns": 2},
    "batching": {"target_p99": "50ms"},
}


class ScalerProcess:
    """`batcher scaler` on a document."""

    def __init__(self, folder, document):
        self._path = folder / "scaler.yaml"
        self._path.write_text(json.dumps(document))
        self.process = None

    async def start(self):
        self.process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "batcher", "scaler", str(self._path), "--log-format", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        line = (await asyncio.to_thread(self.process.stdout.readline)).decode()
        assert line.startswith("batcher scaler: ranker; gRPC on 127.0.0.1:"), line
        return line.split("gRPC on ")[1].split(",")[0].strip()

    async def stop(self):
        """End it by SIGTERM; returns the exit code, and what it wrote."""
        self.process.send_signal(signal.SIGTERM)
        _, log = await asyncio.to_thread(self.process.communicate, timeout=30)
        return self.process.returncode, log.decode()


@pytest.fixture(scope="module")
def two_servers():
    with (
        ServerProcess({"models": [MODEL]}) as one,
        ServerProcess({"models": [MODEL]}) as two,
    ):
        yield one, two


@pytest.fixture
async def scaler_process(tmp_path, two_servers):
    document = {
        "listen": {"grpc": ["127.0.0.1:0"], "http": None},
        "fleets": [
            {
                "name": "ranker",
                "replicas": {"static": [server.grpc for server in two_servers]},
                "models": ["ranker"],
                "poll": {"interval": "200ms"},
                "idle_after": "2s",
            }
        ],
    }
    process = ScalerProcess(tmp_path, document)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.process.kill()
        process.process.communicate()


async def ask(server):
    async with aio.insecure_channel(server.grpc) as channel:
        await protocol.Stub(channel, protocol.INFERENCE).ModelInfer(
            infer_request("ranker", {"X": np.zeros((1, 2), np.float32)})
        )


async def test_real_servers_are_idle_busy_and_idle_again(scaler_process, two_servers, keda_on):
    async with aio.insecure_channel(await scaler_process.start()) as channel:
        client = keda_on(channel)
        await client.until(client.value, 0.0)
        await client.until(client.active, False)
        await ask(two_servers[0])
        await client.until(client.active, True)
        await client.until(client.active, False)
    assert (await scaler_process.stop())[0] == 0


async def test_a_scaler_that_starts_again_is_not_sure_at_once(scaler_process, two_servers, keda_on):
    async with aio.insecure_channel(await scaler_process.start()) as channel:
        client = keda_on(channel)
        await client.until(client.active, False)
        stream = client.stub.StreamIsActive(client.ref)
        assert (await stream.read()).result is False
        code, log = await scaler_process.stop()
        assert code == 0, log
        assert await stream.read() is aio.EOF
    async with aio.insecure_channel(await scaler_process.start()) as channel:
        client = keda_on(channel)
        answers = await client.until(client.active, False)
        assert answers[0] is not False
        scaler_process.process.send_signal(signal.SIGHUP)
        assert True in answers
        two_servers[1].process.send_signal(signal.SIGSTOP)
        try:
            await client.until(client.active, True)
        finally:
            two_servers[1].process.send_signal(signal.SIGCONT)
        await client.until(client.active, False)


async def test_a_port_in_use_is_said(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "scaler.yaml"
        path.write_text(
            json.dumps(
                {
                    "listen": {"grpc": [address], "http": None},
                    "fleets": [{"name": "ranker", "replicas": {"static": ["127.0.0.1:1"]}}],
                }
            )
        )
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "batcher", "scaler", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr
