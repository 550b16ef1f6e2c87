"""Open loop: requests arrive at random, at a rate, whether or not the server keeps up."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import machine
import numpy as np
from closed import connections
from payload import STREAM, UNARY, Payload, probe

from batcher.clock import MILLISECOND, SECOND
from batcher.runtime.timer import TimerFd
from batcher.testing.server import ServerProcess

PATIENCE_S = 30.0
PERCENTILES = (50, 95, 99, 99.9)
LATE_GENERATOR_MS = 5.0


def arrivals_ns(rate: float, seconds: float, seed: int) -> list[int]:
    """When each request is due, from the start: a Poisson process."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, size=int(rate * seconds * 1.2) + 100)
    due = np.cumsum(gaps)
    return [int(at * SECOND) for at in due[due < seconds]]


class Pacer:
    """Wakes its one waiter at absolute moments, to 0.1 ms (the loop's own timers step by 1 ms)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = TimerFd(self._loop, self._fire)
        self._waiter: asyncio.Future[None] | None = None

    async def until(self, at_ns: int) -> None:
        """Return at that moment of the monotonic clock."""
        self._waiter = self._loop.create_future()
        self._timer.arm(at_ns)
        await self._waiter

    def close(self) -> None:
        """Free the timer."""
        self._timer.close()

    def _fire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True)
class Record:
    """What became of the requests, by their place in the order of arrival."""

    latency_ns: dict[int, int] = field(default_factory=dict)
    sent_late_ns: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


class Calls:
    """Every request is a call."""

    def __init__(self, payload: Payload, record: Record, deadline_ns: int | None) -> None:
        self._request = payload.request
        self._record = record
        self._timeout = deadline_ns / SECOND if deadline_ns else None
        self._stubs: list[grpc.aio.UnaryUnaryMultiCallable] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, channels: list[grpc.aio.Channel]) -> None:
        """Be ready to send."""
        self._stubs = [channel.unary_unary(UNARY) for channel in channels]

    def send(self, place: int, due_ns: int) -> None:
        """Send one request; does not wait."""
        task = asyncio.create_task(self._one(place, due_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait for the answers that are still open."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE_S)

    async def _one(self, place: int, due_ns: int) -> None:
        try:
            await self._stubs[place % len(self._stubs)](self._request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            self._record.failed[place] = error.code().name
        else:
            self._record.latency_ns[place] = time.monotonic_ns() - due_ns


class Streams:
    """Requests go round a few streams; the server answers each stream in order."""

    def __init__(self, payload: Payload, record: Record, count: int) -> None:
        self._request = payload.request
        self._reply_bytes = payload.stream_reply_bytes
        self._record = record
        self._count = count
        self._outboxes: list[asyncio.Queue[tuple[int, int] | None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, channels: list[grpc.aio.Channel]) -> None:
        """Open the streams."""
        for number in range(self._count):
            call = channels[number % len(channels)].stream_stream(STREAM)()
            outbox: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
            sent: deque[tuple[int, int]] = deque()
            self._outboxes.append(outbox)
            self._tasks.append(asyncio.create_task(self._write(call, outbox, sent)))
            self._tasks.append(asyncio.create_task(self._read(call, sent)))

    def send(self, place: int, due_ns: int) -> None:
        """Send one request; does not wait."""
        self._outboxes[place % self._count].put_nowait((place, due_ns))

    async def finish(self) -> None:
        """Wait for the answers that are still open."""
        for outbox in self._outboxes:
            outbox.put_nowait(None)
        await asyncio.wait(self._tasks, timeout=PATIENCE_S)

    async def _write(
        self, call: grpc.aio.StreamStreamCall, outbox: asyncio.Queue, sent: deque
    ) -> None:
        while (item := await outbox.get()) is not None:
            sent.append(item)
            await call.write(self._request)
        await call.done_writing()

    async def _read(self, call: grpc.aio.StreamStreamCall, sent: deque) -> None:
        while (reply := await call.read()) is not grpc.aio.EOF:
            place, due_ns = sent.popleft()
            if len(reply) == self._reply_bytes:
                self._record.latency_ns[place] = time.monotonic_ns() - due_ns
            else:
                self._record.failed[place] = "error message on the stream"


async def drive(load: Calls | Streams, due_ns: list[int], record: Record) -> float:
    """Send every request at its moment; return the seconds until the last was answered."""
    pacer = Pacer()
    start_ns = time.monotonic_ns() + 50 * MILLISECOND
    for place, offset_ns in enumerate(due_ns):
        at_ns = start_ns + offset_ns
        if at_ns > time.monotonic_ns():
            await pacer.until(at_ns)
        record.sent_late_ns.append(time.monotonic_ns() - at_ns)
        load.send(place, at_ns)
    pacer.close()
    await load.finish()
    return (time.monotonic_ns() - start_ns) / SECOND


def summary(record: Record, due_ns: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """The figures over the requests that were due after the warm-up."""
    counted = [place for place, at in enumerate(due_ns) if at >= options.warmup * SECOND]
    latencies = np.array(
        [record.latency_ns[place] for place in counted if place in record.latency_ns]
    )
    failed = Counter(record.failed[place] for place in counted if place in record.failed)
    on_time = int(np.count_nonzero(latencies <= options.target))
    lost = len(counted) - len(latencies) - failed.total()
    if lost:
        failed["no answer"] = lost
    sent_late = np.array(record.sent_late_ns) / MILLISECOND
    return {
        "requests": len(counted),
        "answered": len(latencies),
        "on_time": on_time,
        "on_time_fraction": round(on_time / max(len(counted), 1), 5),
        "latency_ms": percentiles(latencies / MILLISECOND),
        "failed": dict(failed.most_common()),
        "sent_late_ms": percentiles(sent_late),
    }


def percentiles(values_ms: np.ndarray) -> dict[str, float]:
    """By name; empty when there are no values."""
    if not values_ms.size:
        return {}
    named = {f"p{name:g}": float(np.percentile(values_ms, name)) for name in PERCENTILES}
    return {
        name: round(value, 3) for name, value in (named | {"max": float(values_ms.max())}).items()
    }


def config(options: argparse.Namespace) -> dict[str, Any]:
    """The server that is started when no address is given."""
    model = {
        "name": options.model,
        "executor": "emulated",
        "options": {"base": options.base, "per_row": options.per_row, "columns": options.floats},
        "batching": {
            "policy": options.policy,
            "max_batch_size": options.max_batch_size,
            "target_p99": f"{options.target / MILLISECOND:g}ms",
        },
    }
    if options.policy == "fixed":
        model["batching"]["max_delay"] = options.max_delay
    return {"models": [model]}


async def run(options: argparse.Namespace) -> None:
    """One run, which ends by itself: `--seconds`, and what the last answers take."""
    due_ns = arrivals_ns(options.rate, options.seconds, options.seed)
    if not due_ns:
        sys.exit("no request falls into this time: raise --rate or --seconds")
    with ExitStack() as stack:
        address, pid = options.address, None
        if address is None:
            server_core, load_core = machine.cores()
            machine.stay_on(load_core)
            with machine.children_on(server_core):
                server = stack.enter_context(ServerProcess(config(options)))
            address, pid = server.grpc, server.process.pid
        payload = await probe(address, options.model, options.floats)
        record = Record()
        load = (
            Streams(payload, record, options.streams)
            if options.streams
            else Calls(payload, record, options.deadline)
        )
        # A collection in the middle would be measured as the server's latency.
        gc.freeze()
        gc.disable()
        async with connections(address, options.connections) as channels:
            await load.open(channels)
            cpu = machine.cpu_seconds(pid) if pid else 0.0
            load_cpu = time.process_time()
            seconds = await drive(load, due_ns, record)
            busy = {"load_busy": round((time.process_time() - load_cpu) / seconds, 3)}
            if pid:
                busy["server_busy"] = round((machine.cpu_seconds(pid) - cpu) / seconds, 3)
    result = summary(record, due_ns, options) | busy
    report(result, options)
    machine.save(options.output, {"settings": settings(options), **result})


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, durations in milliseconds."""
    kept = {k: v for k, v in vars(options).items() if k not in ("run", "output", "command")}
    for name in ("target", "deadline"):
        kept[f"{name}_ms"] = kept.pop(name) and getattr(options, name) / MILLISECOND
    return kept


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    """For the person who watches."""
    print(f"{result['requests']} requests at {options.rate:g} per second")
    print(f"on time   {result['on_time_fraction']:.4f} within {options.target / MILLISECOND:g} ms")
    for title, name in (("latency", "latency_ms"), ("sent late", "sent_late_ms")):
        print(f"{title:10}" + "  ".join(f"{p} {value:.2f} ms" for p, value in result[name].items()))
    for what, count in result["failed"].items():
        print(f"failed    {count} x {what}")
    print(
        "busy      "
        + "  ".join(
            f"{name.removesuffix('_busy')} {result[name]:.2f}"
            for name in sorted(result)
            if name.endswith("_busy")
        )
    )
    if result["sent_late_ms"].get("p99", 0) > LATE_GENERATOR_MS:
        print("note: the load was sent late; its own core was too busy for this rate")
