"""Reads all that a server says of itself, as a platform does, until it is ended.

    python watchers.py HTTP_ADDRESS GRPC_ADDRESS VIEWERS

Each second `/metrics` in both formats and the load report as JSON, over one connection each; the load report and
ORCA's as streams of gRPC; and viewers of the live page.
Prints one line when each has had its first answer; exits with 1 where one fails.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import grpc

from batcher.protocol import LOAD_REPORTS, OPEN_RCA, orca_service

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
EVERY_S = 1.0


async def poll(url: str, accept: str, first: asyncio.Event) -> None:
    """Ask each second, as Prometheus does."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    async with aiohttp.ClientSession(headers={"accept": accept}) as session:
        while True:
            async with session.get(url) as answer:
                answer.raise_for_status()
                await answer.read()
            first.set()
            due_s += EVERY_S
            await asyncio.sleep(due_s - loop.time())


async def view(url: str, first: asyncio.Event) -> None:
    """Read server-sent events as they come; a stream that ends is opened again."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
                answer.raise_for_status()
                async for _ in answer.content:
                    first.set()


async def stream(address: str, method: str, request: bytes, first: asyncio.Event) -> None:
    """Read the messages of a call that ends with the server."""
    async with grpc.aio.insecure_channel(address) as channel:
        async for _ in channel.unary_stream(method)(request):
            first.set()


async def watch(http: str, address: str, viewers: int) -> None:
    """Everything at once."""
    base = f"http://{http}"
    each_second = orca_service.OrcaLoadReportRequest()
    each_second.report_interval.FromSeconds(1)
    pages = [
        *((poll, (f"{base}/metrics", accept)) for accept in (TEXT, OPENMETRICS)),
        (poll, (f"{base}/v1/load", "application/json")),
        (stream, (address, f"/{LOAD_REPORTS}/Watch", b"")),
        (stream, (address, f"/{OPEN_RCA}/StreamCoreMetrics", each_second.SerializeToString())),
        *((view, (f"{base}/v1/live",)) for _ in range(viewers)),
    ]
    firsts = [asyncio.Event() for _ in pages]
    tasks = [
        asyncio.create_task(do(*arguments, first))
        for (do, arguments), first in zip(pages, firsts, strict=True)
    ]
    ready = asyncio.gather(*(first.wait() for first in firsts))
    await asyncio.wait([*tasks, ready], return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print("ready", flush=True)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2], int(sys.argv[3])))
