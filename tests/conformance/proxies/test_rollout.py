"""One of two servers behind a proxy gets SIGTERM: no call is lost."""

import asyncio
from contextlib import ExitStack, asynccontextmanager
from signal import SIGTERM

import numpy as np
import pytest
from grpc import aio

from batcher import protocol
from batcher.testing.messages import infer_request, output_arrays
from batcher.testing.server import ServerProcess

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

DELAY_S = 1
CONFIG = {
    "server": {"drain_delay": f"{DELAY_S}s"},
    "models": [
        {
            "name": "hello",
            "executor": "emulated",
            "options": {"columns": 4, "base": "20ms"},
            "batching": {"policy": "fixed"},
        }
    ],
}


@pytest.fixture
def servers():
    """Of the transport `builtin`: with `grpcio`, calls that come at the very end are refused."""
    with ExitStack() as stack:
        yield [stack.enter_context(ServerProcess(CONFIG)) for _ in range(2)]


@pytest.fixture
def proxy(put_before, servers, tmp_path):
    with put_before([each.grpc for each in servers], tmp_path) as (listen, log):
        yield listen
        print(log.read_text(), *(each.log() for each in servers))  # noqa: T201


@asynccontextmanager
async def callers(address, count):
    """That many callers at once, each with a connection of its own; yields the list of their results."""
    found, going = [], True

    async def call(number):
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(address, options=options) as channel:
            infer = protocol.Stub(channel, protocol.INFERENCE).ModelInfer
            request = infer_request("hello", {"X": np.full((1, 4), number, np.float32)})
            while going:
                try:
                    reply = await infer(request, timeout=30)
                    found.append(float(output_arrays(reply)["Y"][0, 0]) == 2 * number)
                except aio.AioRpcError as error:
                    found.append(f"{error.code().name}: {error.details()}")

    tasks = [asyncio.create_task(call(number)) for number in range(count)]
    try:
        yield found
    finally:
        going = False
        await asyncio.gather(*tasks)


async def longer(found, than):
    async with asyncio.timeout(30):
        while True:
            if len(found) > than:
                return
            await asyncio.sleep(0.01)


async def test_no_call_is_lost_when_a_server_stops(proxy, servers):
    async with callers(proxy, 8) as found:
        await longer(found, 50)
        assert await asyncio.to_thread(servers[0].stop, SIGTERM) == 0
        ended = len(found)
        await longer(found, ended + 50)
    assert set(found) == {True}
    assert ended > 50, "none was answered meanwhile"
