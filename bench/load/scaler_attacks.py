"""Callers that do harm to a scaler, for `scaler.py`, until they are ended.

python scaler_attacks.py ATTACK GRPC HTTP
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import uvloop
from grpc import aio

from batcher.protocol import KEDA, Stub, keda

REF = keda.ScaledObjectRef(name="x", namespace="y", scalerMetadata={"fleet": "fleet"})
ASK = keda.GetMetricsRequest(scaledObjectRef=REF, metricName="desired_ratio")


def channel_to(address: str) -> aio.Channel:
    """A channel with a connection of its own."""
    return aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


async def flood(grpc: str, _http: str) -> None:
    """A thousand callers that ask as fast as they can, over four connections."""

    async def ask(channel: aio.Channel) -> None:
        stub = Stub(channel, KEDA)
        while True:
            await stub.GetMetrics(ASK)

    channels = [channel_to(grpc) for _ in range(4)]
    await asyncio.gather(*(ask(channel) for channel in channels for _ in range(256)))


async def streams(grpc: str, _http: str) -> None:
    """Ten thousand streams, opened again when they end."""

    async def listen(stub: Any) -> None:
        while True:
            with contextlib.suppress(aio.AioRpcError):
                async for _ in stub.StreamIsActive(REF):
                    pass
            await asyncio.sleep(5)

    channels = [channel_to(grpc) for _ in range(5)]
    await asyncio.gather(*(listen(Stub(each, KEDA)) for each in channels for _ in range(2000)))


async def trickle(grpc: str, http: str) -> None:
    """Four hundred connections to each listener that send a byte a second."""

    async def drip(address: str, data: bytes) -> None:
        host, port = address.split(":")
        while True:
            with contextlib.suppress(OSError, RuntimeError):  # closed by the scaler
                _, writer = await asyncio.open_connection(host, int(port))
                try:
                    for byte in data:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(1)
                finally:
                    writer.close()

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200)
    await asyncio.gather(
        *(drip(grpc, preface) for _ in range(400)),
        *(drip(http, b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 200) for _ in range(400)),
    )


async def scrapes(_grpc: str, http: str) -> None:
    """Eight readers of every page, as fast as they can."""
    import aiohttp  # noqa: PLC0415 - the other scenes need none

    async def read(session: aiohttp.ClientSession) -> None:
        while True:
            for path in ("/metrics", "/v1/fleets", "/v1/fleets/fleet"):
                async with session.get(f"http://{http}{path}") as answer:
                    await answer.read()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(read(session) for _ in range(8)))


ATTACKS = {"flood": flood, "streams": streams, "trickle": trickle, "scrapes": scrapes}


if __name__ == "__main__":
    uvloop.run(ATTACKS[sys.argv[1]](sys.argv[2], sys.argv[3]))
