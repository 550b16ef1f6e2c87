"""The service configurations for callers, in a real gRPC client in front of real servers."""

import asyncio
import json
from signal import SIGTERM

import numpy as np
import pytest
from grpc import aio

from batcher.protocol import INFERENCE, Stub
from batcher.testing.messages import infer_request

MODEL = {"models": [{"name": "ranker", "executor": "emulated", "options": {"base": "1ms"}}]}
REQUEST = infer_request("ranker", {"X": np.ones((1, 16), np.float32)})
CALLS = 40

pytestmark = pytest.mark.slow


@pytest.fixture(params=["round-robin", "weighted"])
def service_config(request, deploy):
    text = (deploy / "client" / f"{request.param}.json").read_text("utf-8")
    # One line, as it is pasted into the options of a channel.
    return json.dumps(json.loads(text))


@pytest.fixture
def channel(service_config):
    """A function from servers to a channel that knows them all."""

    def dial(*servers):
        target = "ipv4:" + ",".join(each.grpc for each in servers)
        return aio.insecure_channel(target, options=[("grpc.service_config", service_config)])

    return dial


@pytest.fixture
def answered(scrape):
    """How many requests a server has answered."""

    async def count(server):
        metrics = await scrape(server.http)
        return metrics.sum("batcher_requests_total", outcome="ok")

    return count


async def test_calls_spread_and_none_fails_while_a_replica_drains(serve, channel, answered):
    """Its health says that it leaves, while it still serves: calls move away before it refuses any."""
    leaving, _ = servers = [serve(MODEL | {"server": {"drain_delay": "1s"}}) for _ in "ab"]
    async with channel(*servers) as open_channel:
        infer = Stub(open_channel, INFERENCE).ModelInfer
        # Both connections are up once both have answered.
        async with asyncio.timeout(60):
            while not all([await answered(each) for each in servers]):
                await infer(REQUEST, timeout=30)
        before = [await answered(each) for each in servers]
        for _ in range(CALLS):
            await infer(REQUEST, timeout=30)
        shares = [await answered(each) - n for each, n in zip(servers, before, strict=True)]
        assert min(shares) >= CALLS / 4
        leaving.process.send_signal(SIGTERM)
        while leaving.process.poll() is None:
            await infer(REQUEST, timeout=30)
        assert leaving.process.returncode == 0
        for _ in range(CALLS):
            await infer(REQUEST, timeout=30)


async def test_calls_wait_for_a_replica_to_start(serve, service_config, tmp_path):
    """As while a fleet comes from zero: nothing listens yet, and the call has time."""
    address = f"unix:{tmp_path}/replica.sock"
    options = [("grpc.service_config", service_config)]
    async with aio.insecure_channel(address, options=options) as open_channel:
        call = Stub(open_channel, INFERENCE).ModelInfer(REQUEST, timeout=60)
        await asyncio.to_thread(serve, MODEL | {"server": {"grpc": [address]}})
        answer = await call
        assert answer.model_name == "ranker"
