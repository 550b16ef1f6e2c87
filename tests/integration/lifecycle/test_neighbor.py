"""A neighbor in a process of its own that is killed, stopped, restarted and replaced by another model."""

import signal

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.testing.server import free_address


@pytest.fixture
def neighbor(serve, hello):
    """A function that starts the neighbor, always at the same address."""
    address = free_address()

    def start(**options):
        document = hello(server={"grpc": [address], "http": None})
        document["models"][0]["options"] |= options
        return serve(document)

    start.address = address
    return start


@pytest.fixture
def front(serve, neighbor):
    """A function that starts a server in front of the neighbor's address."""

    def start(**options):
        given = {"url": neighbor.address, "health_interval": "50ms", **options}
        return serve({"models": [{"name": "hello", "executor": "kserve", "options": given}]})

    return start


@pytest.fixture
def ask(request_of):
    """A function from a stub to the error of one request, None if it was answered rightly."""

    async def ask(stub, within_s=5.0):
        try:
            answer = await stub.ModelInfer(request_of(3.0), timeout=within_s)
        except aio.AioRpcError as error:
            return error
        assert (np.frombuffer(answer.raw_output_contents[0], np.float32) == 6).all()
        return None

    return ask


@pytest.mark.slow
async def test_a_neighbor_that_is_killed_and_started_again(
    neighbor, front, dial, ask, fetch, eventually
):
    first = neighbor()
    server = front()
    stub = await dial(server.grpc)
    assert await ask(stub) is None

    async def ready(status):
        return (await fetch(server.http, "/readyz"))[0] == status

    first.process.kill()
    first.process.wait()
    error = await ask(stub)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"neighbor {neighbor.address}" in error.details()
    assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
    await eventually(lambda: ready(503))

    neighbor()

    async def answered():
        return await ask(stub) is None

    await eventually(answered)
    await eventually(lambda: ready(200))
    assert "loaded again" not in server.log()


@pytest.mark.slow
async def test_a_neighbor_that_stops_for_a_while(neighbor, front, dial, ask, fetch, eventually):
    first = neighbor()
    server = front(health_timeout="100ms")
    stub = await dial(server.grpc)
    assert await ask(stub) is None

    async def ready(status):
        return (await fetch(server.http, "/readyz"))[0] == status

    first.process.send_signal(signal.SIGSTOP)
    try:
        error = await ask(stub, within_s=0.3)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: ready(503))
    finally:
        first.process.send_signal(signal.SIGCONT)
    await eventually(lambda: ready(200))
    assert await ask(stub) is None


@pytest.mark.slow
async def test_a_neighbor_that_has_another_model_afterwards(
    neighbor, front, dial, ask, eventually, request_of
):
    first = neighbor()
    server = front()
    stub = await dial(server.grpc)
    assert await ask(stub) is None
    first.stop()
    neighbor(columns=2)

    async def served():
        wide = request_of(3.0)
        wide.inputs[0].shape[:] = [1, 2]
        wide.raw_input_contents[0] = np.full(2, 3.0, np.float32).tobytes()
        try:
            answer = await stub.ModelInfer(wide, timeout=5)
        except aio.AioRpcError:
            return False
        return list(answer.outputs[0].shape) == [1, 2]

    await eventually(served)
    error = await ask(stub)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
