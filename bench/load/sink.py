"""An OTLP collector over gRPC that keeps nothing.

    python sink.py ADDRESS

Prints one line when it listens.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


async def take(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
    """An empty answer says that all spans were taken."""
    return b""


async def serve(address: str) -> None:
    """Until the process is ended."""
    server = grpc.aio.server()
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
