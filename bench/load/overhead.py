"""What serving costs beside gRPC itself: our server and the echo server in turns, on one core."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import bars
import machine
from closed import ClosedLoop, Round, connections
from payload import Payload, probe

from batcher.testing.server import ServerProcess, free_address

MODEL = "zero"
ECHO = Path(__file__).with_name("echo.py")
SATURATED = 0.9
BAR = 0.8
"""The least share of the echo server's throughput."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running server, and every round against it."""

    name: str
    address: str
    pid: int
    rounds: list[Round] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Median over the rounds."""
        return median(done.per_second for done in self.rounds)

    @property
    def cpu_us(self) -> float:
        """Median over the rounds, microseconds of processor time an answer."""
        return median(done.cpu_us for done in self.rounds)

    @property
    def server_busy(self) -> float:
        """Median share of its core that the server used."""
        return median(done.server_cpu / done.seconds for done in self.rounds)

    @property
    def load_busy(self) -> float:
        """Median share of its core that the load used."""
        return median(done.load_cpu / done.seconds for done in self.rounds)


def config(options: argparse.Namespace) -> dict[str, Any]:
    """A model whose batches take no time."""
    model = {
        "name": MODEL,
        "executor": "emulated",
        "options": {"base": "0ms", "per_row": "0ms", "columns": options.floats},
        "batching": {
            "policy": "fixed",
            "max_batch_size": options.max_batch_size,
            "max_queue_delay": options.max_delay,
        },
        "queue": {"max_requests": 4096},
    }
    return {"server": {"transport": options.transport}, "models": [model]}


@contextmanager
def echo_server(reply_bytes: int) -> Iterator[tuple[str, int]]:
    """The echo server's address and process id."""
    address = free_address()
    command = [sys.executable, str(ECHO), address, str(reply_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                sys.exit("the echo server did not start")
            yield address, process.pid
        finally:
            process.terminate()


def reply_bytes(payload: Payload, streams: int) -> int:
    """How long the echo's replies are: as long as ours."""
    return payload.stream_reply_bytes if streams else payload.reply_bytes


async def measure(
    target: Target, payload: Payload, seconds: float, options: argparse.Namespace
) -> Round:
    """One round on connections of its own."""
    loop = ClosedLoop(payload, seconds)
    async with connections(target.address, options.connections) as channels:
        if options.streams:
            done = await loop.streams(channels, target.pid, options.in_flight, options.streams)
        else:
            done = await loop.unary(channels, target.pid, options.in_flight)
    if done.failed:
        sys.exit(f"{target.name}: {describe(done.failed)}")
    return done


def describe(failed: Counter[str]) -> str:
    """The failures, most frequent first."""
    return "; ".join(f"{count} x {what}" for what, count in failed.most_common(5))


def report(ours: Target, echo: Target, options: argparse.Namespace) -> dict[str, Any]:
    """Print the table; return what is kept."""
    print(f"\n{'':10}{'per second':>12}{'cpu us each':>13}{'server busy':>13}{'load busy':>11}")
    for target in (ours, echo):
        figures = f"{target.per_second:12.0f}{target.cpu_us:13.1f}"
        print(f"{target.name:10}{figures}{target.server_busy:13.2f}{target.load_busy:11.2f}")
    pairs = [
        mine.per_second / theirs.per_second
        for mine, theirs in zip(ours.rounds, echo.rounds, strict=True)
    ]
    throughput, cpu = ours.per_second / echo.per_second, echo.cpu_us / ours.cpu_us
    print(f"\nthroughput ratio   {throughput:.3f}   (rounds {min(pairs):.3f} to {max(pairs):.3f})")
    print(f"ratio by cpu time  {cpu:.3f}")
    idle = [target.name for target in (ours, echo) if target.server_busy < SATURATED]
    for name in idle:
        print(f"note: {name} had idle time; the ratio by cpu time is the one to read")
    ratio, of = (cpu, "cpu time") if idle else (throughput, "throughput")
    checks = {f"the ratio by {of} is at least {BAR}": ratio >= BAR}
    bars.show(checks)
    return {
        "checks": checks,
        "throughput_ratio": round(throughput, 4),
        "throughput_ratio_of_rounds": [round(pair, 4) for pair in pairs],
        "cpu_time_ratio": round(cpu, 4),
        "settings": {
            name: getattr(options, name)
            for name in (
                "rounds",
                "seconds",
                "in_flight",
                "connections",
                "streams",
                "floats",
                "max_batch_size",
                "max_delay",
                "transport",
            )
        },
        **{
            target.name: {
                "per_second": round(target.per_second, 1),
                "cpu_us_each": round(target.cpu_us, 2),
                "server_busy": round(target.server_busy, 3),
                "load_busy": round(target.load_busy, 3),
                "rounds": [round(done.per_second, 1) for done in target.rounds],
            }
            for target in (ours, echo)
        },
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison; returns what is kept."""
    server_core, load_core = machine.cores()
    machine.stay_on(load_core)
    with ExitStack() as stack:
        with machine.children_on(server_core):
            server = stack.enter_context(ServerProcess(config(options)))
        payload = await probe(server.grpc, MODEL, options.floats)
        with machine.children_on(server_core):
            address, pid = stack.enter_context(echo_server(reply_bytes(payload, options.streams)))
        targets = [Target("batcher", server.grpc, server.process.pid), Target("echo", address, pid)]
        for target in targets:
            await measure(target, payload, 1.0, options)  # both are warm from here on
        for turn in range(options.rounds):
            # The order changes with each round, so that a drifting machine favors no server.
            for target in targets if turn % 2 == 0 else reversed(targets):
                done = await measure(target, payload, options.seconds, options)
                target.rounds.append(done)
                print(f"round {turn + 1}  {target.name:8}{done.per_second:8.0f} per second")
    found = report(*targets, options)
    machine.save(options.output, found)
    return found
