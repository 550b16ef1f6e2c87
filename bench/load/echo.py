"""The yardstick: a grpc.aio server that does nothing but gRPC.

It answers every call with the same bytes, without serializers, on uvloop. What it achieves is what
Python's grpc.aio allows on a core; what our server adds to it is ours.

    python bench/load/echo.py ADDRESS REPLY_BYTES
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
import uvloop

UNARY = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


class Echo(grpc.GenericRpcHandler):
    """Answers both inference methods with a fixed reply."""

    def __init__(self, reply_bytes: int) -> None:
        reply = bytes(reply_bytes)

        async def unary(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
            return reply

        async def stream(
            requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext
        ) -> AsyncIterator[bytes]:
            async for _ in requests:
                yield reply

        self._handlers = {
            UNARY: grpc.unary_unary_rpc_method_handler(unary),
            STREAM: grpc.stream_stream_rpc_method_handler(stream),
        }

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a call's method."""
        return self._handlers.get(call.method)


async def serve(address: str, reply_bytes: int) -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(reply_bytes),))
    server.add_insecure_port(address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
