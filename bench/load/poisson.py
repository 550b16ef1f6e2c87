"""Open loop: requests arrive at random, at a rate, whether or not the server keeps up."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any, TypeAlias

import machine
import numpy as np
import quiet
from clients import Calls, GrpcCalls, Record, Streams
from numpy.typing import NDArray
from payload import Payload, probe

from batcher.clock import MILLISECOND, SECOND
from batcher.runtime.timer import TimerFd
from batcher.testing.server import ServerProcess

PERCENTILES = (50, 95, 99, 99.9)
Mask: TypeAlias = NDArray[np.bool_]
CLIENTS = {"http2": Calls, "grpc": GrpcCalls}


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


async def drive(load: Calls | GrpcCalls | Streams, due_ns: list[int], record: Record) -> float:
    """Send every request at its moment; return the seconds until the last was answered."""
    pacer = Pacer()
    start_ns = record.began_ns = time.monotonic_ns() + 50 * MILLISECOND
    for place, offset_ns in enumerate(due_ns):
        at_ns = start_ns + offset_ns
        if at_ns > time.monotonic_ns():
            await pacer.until(at_ns)
        record.sent_late_ns.append(time.monotonic_ns() - at_ns)
        load.send(place, at_ns)
    pacer.close()
    await load.finish()
    return (time.monotonic_ns() - start_ns) / SECOND


def summary(
    record: Record, due_ns: list[int], options: argparse.Namespace, among: Mask | None = None
) -> dict[str, Any]:
    """The figures over the requests that were due after the warm-up, and are in the mask."""
    counted = [
        place
        for place, at in enumerate(due_ns)
        if at >= options.warmup * SECOND and (among is None or among[place])
    ]
    latencies = np.array(
        [record.latency_ns[place] for place in counted if place in record.latency_ns]
    )
    failed = Counter(record.failed[place] for place in counted if place in record.failed)
    on_time = int(np.count_nonzero(latencies <= options.target))
    lost = len(counted) - len(latencies) - failed.total()
    if lost:
        failed["no answer"] = lost
    sent_late = np.array([record.sent_late_ns[place] for place in counted]) / MILLISECOND
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
        model["batching"]["max_queue_delay"] = options.max_delay
    return {"server": {"transport": options.transport}, "models": [model]}


async def run(options: argparse.Namespace) -> None:
    """One run, which ends by itself: `--seconds`, and what the last answers take."""
    due_ns = arrivals_ns(options.rate, options.seconds, options.seed)
    if not due_ns:
        sys.exit("no request falls into this time: raise --rate or --seconds")
    with ExitStack() as stack:
        address, pid, cores = options.address, None, {}
        if address is None:
            server_core, load_core = machine.cores()
            cores = {"server": server_core, "load": load_core}
            machine.stay_on(load_core)
            with machine.children_on(server_core):
                server = stack.enter_context(ServerProcess(config(options)))
            address, pid = server.grpc, server.process.pid
        payload = await probe(address, options.model, options.floats)
        # A collection in the middle would be measured as the server's latency.
        gc.freeze()
        gc.disable()
        runs = await quiet.until_quiet(
            lambda: offer(options, due_ns, payload, address, pid, cores), options.repeats
        )
    result = runs[-1] | {"repeats": len(runs) - 1, "not_judged": quiet.not_judged(runs[-1])}
    report(result, options)
    machine.save(options.output, {"settings": settings(options), **result})


async def offer(
    options: argparse.Namespace,
    due_ns: list[int],
    payload: Payload,
    address: str,
    pid: int | None,
    cores: dict[str, int],
) -> dict[str, Any]:
    """The requests once, on connections of their own; `pid` is the server's, if it is ours."""
    record = Record()
    load: Calls | GrpcCalls | Streams
    if options.streams:
        load = Streams(payload, record, options.streams)
    else:
        load = CLIENTS[options.client](payload, record, options.deadline)
    await load.open(address, options.connections)
    cpu = machine.cpu_seconds(pid) if pid else 0.0
    load_cpu = time.process_time()
    with machine.Steal(cores) as steal:
        seconds = await drive(load, due_ns, record)
    used = {"load": time.process_time() - load_cpu}
    if pid:
        used["server"] = machine.cpu_seconds(pid) - cpu
    return summary(record, due_ns, options) | {
        **{f"{name}_busy": round(each / seconds, 3) for name, each in used.items()},
        "cpu_us_each": {name: round(each / len(due_ns) * 1e6, 1) for name, each in used.items()},
        "steal": steal.shares,
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, durations in milliseconds."""
    kept = {k: v for k, v in vars(options).items() if k not in ("run", "output", "command")}
    for name in ("target", "deadline"):
        kept[f"{name}_ms"] = kept.pop(name) and getattr(options, name) / MILLISECOND
    return kept


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print it for a person."""
    print(f"{result['requests']} requests at {options.rate:g} per second")
    print(f"on time   {result['on_time_fraction']:.4f} within {options.target / MILLISECOND:g} ms")
    for title, name in (("latency", "latency_ms"), ("sent late", "sent_late_ms")):
        print(f"{title:10}" + "  ".join(f"{p} {value:.2f} ms" for p, value in result[name].items()))
    for what, count in result["failed"].items():
        print(f"failed    {count} x {what}")
    for name, each_us in result["cpu_us_each"].items():
        print(f"{name:10}{result[f'{name}_busy']:.2f} of its core, {each_us:.1f} us a request")
