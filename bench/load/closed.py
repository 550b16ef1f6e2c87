"""Closed loop: a fixed number of requests in flight; the next is sent when one is answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
from machine import cpu_seconds
from payload import STREAM, UNARY, Payload

LOCAL = [("grpc.use_local_subchannel_pool", 1)]  # else equal targets share one connection


@dataclass(slots=True)
class Round:
    """What one round measured."""

    answered: int
    seconds: float
    server_cpu: float
    """Processor seconds of the server process."""
    load_cpu: float
    """Processor seconds of this process."""
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's processor time for one answer."""
        return self.server_cpu / max(self.answered, 1) * 1e6


@asynccontextmanager
async def connections(address: str, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Channels with a connection each."""
    async with AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(address, options=LOCAL) for _ in range(count)]
        for channel in channels:
            await stack.enter_async_context(channel)
        yield channels


class ClosedLoop:
    """Keeps `in_flight` requests open over some channels until a moment has passed."""

    def __init__(self, payload: Payload, seconds: float) -> None:
        self._payload = payload
        self._seconds = seconds
        self._answered = 0
        self._failed: Counter[str] = Counter()
        self._end = 0.0

    async def unary(self, channels: list[grpc.aio.Channel], pid: int, in_flight: int) -> Round:
        """Every request is a call."""
        calls = [channel.unary_unary(UNARY) for channel in channels]
        return await self._run(pid, [self._call(calls[i % len(calls)]) for i in range(in_flight)])

    async def streams(
        self, channels: list[grpc.aio.Channel], pid: int, in_flight: int, streams: int
    ) -> Round:
        """Requests share that many streams evenly."""
        calls = [channel.stream_stream(STREAM) for channel in channels]
        share = in_flight // streams
        return await self._run(
            pid, [self._stream(calls[i % len(calls)], share) for i in range(streams)]
        )

    async def _run(self, pid: int, workers: list) -> Round:
        self._answered, self._failed = 0, Counter()
        cpu, load_cpu, start = cpu_seconds(pid), time.process_time(), time.monotonic()
        self._end = start + self._seconds
        await asyncio.gather(*workers)
        return Round(
            answered=self._answered,
            seconds=time.monotonic() - start,
            server_cpu=cpu_seconds(pid) - cpu,
            load_cpu=time.process_time() - load_cpu,
            failed=self._failed,
        )

    async def _call(self, call: grpc.aio.UnaryUnaryMultiCallable) -> None:
        request, length = self._payload.request, self._payload.reply_bytes
        while time.monotonic() < self._end:
            try:
                reply = await call(request)
            except grpc.aio.AioRpcError as error:
                self._failed[f"{error.code().name}: {error.details()}"] += 1
                return
            if len(reply) != length:
                self._failed["a reply of another length"] += 1
            self._answered += 1

    async def _stream(self, open_stream: grpc.aio.StreamStreamMultiCallable, share: int) -> None:
        request, length = self._payload.request, self._payload.stream_reply_bytes
        call = open_stream()
        for _ in range(share):
            await call.write(request)
        left = share
        while left:
            reply = await call.read()
            if reply is grpc.aio.EOF:
                self._failed[f"the stream ended: {(await call.code()).name}"] += 1
                return
            if len(reply) != length:
                self._failed["a reply of another length"] += 1
            self._answered += 1
            if time.monotonic() < self._end:
                await call.write(request)
            else:
                left -= 1
        await call.done_writing()
