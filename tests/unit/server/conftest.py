"""A real server on loopback for the services that need no model."""

from contextlib import asynccontextmanager

import pytest
from grpc import aio


@pytest.fixture
def serving():
    """An async context manager: handlers in, a channel to a server with them out."""

    @asynccontextmanager
    async def serve(*handlers):
        server = aio.server()
        server.add_generic_rpc_handlers(handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            await server.stop(None)

    return serve
