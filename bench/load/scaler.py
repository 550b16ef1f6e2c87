"""What the external scaler's answers take with 200 replicas, and what they cost.

Well, with replicas that hang or lie, and while callers flood it, open ten thousand streams or send a byte at a time.

Two clients as KEDA's: each asks `GetMetrics` and `IsActive`, again and again. The scaler and the replicas run in
processes of their own. Bars: every answer within a second, and never "idle".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np
from bars import show
from grpc import aio

from batcher.protocol import KEDA, Stub, keda
from batcher.testing.server import free_address

REPLICAS = Path(__file__).with_name("scaler_replicas.py")
ATTACKS = Path(__file__).with_name("scaler_attacks.py")
ATTACK_FIRST_S = 4.0
"""For how long attackers are at it before the clients begin."""
WITHIN_S = 1.0
"""What is promised of every answer."""


@dataclass
class Answers:
    """What the clients got in one scene."""

    took_s: list[float] = field(default_factory=list)
    errors: int = 0
    idle: int = 0
    values: set[float] = field(default_factory=set)


class Scene:
    """A scaler, its replicas, and clients that ask."""

    def __init__(self, count: int, folder: str) -> None:
        self.grpc, self.http = free_address(), free_address()
        self._replicas = subprocess.Popen(
            [sys.executable, str(REPLICAS), str(count), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        addresses = json.loads(self._read())
        path = Path(folder) / "scaler.yaml"
        path.write_text(
            json.dumps(
                {
                    "listen": {"grpc": [self.grpc], "http": self.http},
                    "fleets": [{"name": "fleet", "replicas": {"static": addresses}}],
                }
            ),
            encoding="utf-8",
        )
        self.scaler = subprocess.Popen(
            [sys.executable, "-m", "batcher", "scaler", str(path), "--log-level", "error"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.scaler.stdout is not None
        self.scaler.stdout.readline()

    def _read(self) -> str:
        assert self._replicas.stdout is not None
        return self._replicas.stdout.readline()

    def tell(self, line: str) -> None:
        """Have the replicas do something."""
        assert self._replicas.stdin is not None
        self._replicas.stdin.write(line + "\n")
        self._replicas.stdin.flush()
        self._read()

    def memory_mib(self) -> float:
        """Resident memory of the scaler."""
        pages = Path(f"/proc/{self.scaler.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> int:
        """End both; returns the exit code of the scaler."""
        self.scaler.send_signal(signal.SIGTERM)
        code = self.scaler.wait(30)
        assert self._replicas.stdin is not None
        self._replicas.stdin.close()
        self._replicas.wait(30)
        return code


REF = keda.ScaledObjectRef(name="x", namespace="y", scalerMetadata={"fleet": "fleet"})
ASK = keda.GetMetricsRequest(scaledObjectRef=REF, metricName="desired_ratio")


async def client(address: str, answers: Answers, every_s: float) -> None:
    """Ask as KEDA does, until cancelled."""
    async with aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = Stub(channel, KEDA)
        while True:
            for call, request in ((stub.GetMetrics, ASK), (stub.IsActive, REF)):
                began_s = time.perf_counter()
                try:
                    response: Any = await call(request, timeout=10)
                except aio.AioRpcError:
                    answers.errors += 1
                else:
                    if call is stub.IsActive:
                        answers.idle += not response.result
                    else:
                        answers.values.add(round(response.metricValues[0].metricValueFloat, 3))
                answers.took_s.append(time.perf_counter() - began_s)
            await asyncio.sleep(every_s)


@contextlib.asynccontextmanager
async def running(*works: Awaitable[None]) -> AsyncIterator[None]:
    """Work that goes on meanwhile."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def attacked(scene: Scene, attack: str) -> AsyncIterator[None]:
    """Callers that do harm meanwhile, in a process of their own."""
    if not attack:
        yield
        return
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, str(ATTACKS), attack, scene.grpc, scene.http
    )
    try:
        await asyncio.sleep(ATTACK_FIRST_S)
        yield
    finally:
        # One that has ended did no harm: the figures would be those of another scene.
        assert attacker.returncode is None, attack
        attacker.kill()
        await attacker.wait()


async def measured(scene: Scene, seconds: float, attack: str) -> dict[str, Any]:
    """The numbers of one scene."""
    answers = Answers()
    clients = [client(scene.grpc, answers, 0.02) for _ in range(2)]
    async with attacked(scene, attack):
        await asyncio.sleep(1)
        before_s, began_s = machine.cpu_seconds(scene.scaler.pid), time.perf_counter()
        async with running(*clients):
            await asyncio.sleep(seconds)
        took_s = time.perf_counter() - began_s
        spent_s = machine.cpu_seconds(scene.scaler.pid) - before_s
        memory = scene.memory_mib()
    times = np.array(answers.took_s)
    return {
        "answers": len(times),
        "p50_ms": round(float(np.quantile(times, 0.5)) * 1000, 2),
        "p99_ms": round(float(np.quantile(times, 0.99)) * 1000, 2),
        "max_ms": round(float(times.max()) * 1000, 2),
        "errors": answers.errors,
        "idle": answers.idle,
        "values": sorted(answers.values),
        "processor": round(spent_s / took_s, 3),
        "memory_mib": round(memory, 1),
    }


SCENES: dict[str, tuple[str, str]] = {
    "well": ("well", ""),
    "a quarter hangs": ("hang 50", ""),
    "a quarter hangs, a quarter lies": ("lie 50", ""),
    "flood of calls": ("well", "flood"),
    "10,000 streams": ("well", "streams"),
    "a byte a second": ("well", "trickle"),
    "every page as fast as possible": ("well", "scrapes"),
    "well after that": ("well", ""),
}
"""What the replicas do, and what callers do beside the clients."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Its options."""
    command.add_argument("--replicas", type=int, default=200, help="of the fleet")
    command.add_argument("--only", choices=SCENES, help="play this scene alone")
    command.add_argument("--seconds", type=float, default=10.0, help="length of a scene")
    command.add_argument(
        "--output", type=Path, default=machine.RESULTS / "scaler.json", help="where the figures go"
    )


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the scenes, write the figures, and return them with the bars."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        scene = await asyncio.to_thread(Scene, options.replicas, folder)
        try:
            for name, (line, attack) in SCENES.items():
                if options.only not in {None, name}:
                    continue
                scene.tell(line)
                results[name] = await measured(scene, options.seconds, attack)
                print(f"{name:32}", json.dumps(results[name]), flush=True)
        finally:
            code = await asyncio.to_thread(scene.close)
    slowest_ms = max(each["max_ms"] for each in results.values())
    checks = {
        "every answer within a second": slowest_ms < WITHIN_S * 1000,
        "never idle by mistake": not any(each["idle"] for each in results.values()),
        "no error": not any(each["errors"] for each in results.values()),
        "ends with 0": code == 0,
    }
    show(checks)
    found = {"replicas": options.replicas, "scenes": results, "checks": checks}
    machine.save(options.output, found)
    return found
