"""Observes a server from outside during an attack or a load."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import attackers
from sending import Target

from batcher.clock import MILLISECOND
from batcher.testing.server import ServerProcess

MIB = 1024**2
PROBE_EVERY_S, PROBE_TIMEOUT_S = 0.05, 2.0
MEMORY_EVERY_S = 0.02


class Watch:
    """Memory, descriptors and liveness of the server, all the time."""

    def __init__(self, server: ServerProcess) -> None:
        assert server.http is not None
        host, _, port = server.http.rpartition(":")
        self._address = host, int(port)
        self._proc = Path(f"/proc/{server.process.pid}")
        self.memory: list[tuple[int, float]] = []
        """Moments of the monotonic clock, and MiB of its resident set."""
        self.descriptors: list[tuple[int, int]] = []
        self.probes: list[tuple[int, float, str]] = []
        """When each began, how many milliseconds it took, and why it failed."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Watch:
        self._tasks = {asyncio.create_task(each()) for each in (self._read, self._probe)}
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        page_mib = 4096 / MIB
        while True:
            pages = int((self._proc / "statm").read_text().split()[1])
            now_ns = time.monotonic_ns()
            self.memory.append((now_ns, pages * page_mib))
            self.descriptors.append((now_ns, sum(1 for _ in (self._proc / "fd").iterdir())))
            await asyncio.sleep(MEMORY_EVERY_S)

    async def _probe(self) -> None:
        while True:
            began_ns = time.monotonic_ns()
            failure = ""
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    failure = await self._healthz()
            except (OSError, TimeoutError) as error:
                failure = type(error).__name__
            took_ms = (time.monotonic_ns() - began_ns) / MILLISECOND
            self.probes.append((began_ns, took_ms, failure))
            await asyncio.sleep(PROBE_EVERY_S)

    async def _healthz(self) -> str:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            line = (await reader.read()).split(b"\r\n", 1)[0].decode()
        finally:
            writer.close()
        return "" if line == "HTTP/1.1 200 OK" else line or "closed"


class Attackers:
    """The process of the attackers, which waits for `go`."""

    def __init__(self, name: str, target: Target) -> None:
        self._command = (sys.executable, attackers.__file__, name, json.dumps(asdict(target)))
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Attackers:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe
        )
        assert self._process.stdout is not None
        await self._process.stdout.readline()
        return self

    async def go(self) -> dict[str, int]:
        """Attack; how their calls and connections ended. Raises RuntimeError where they failed."""
        assert self._process is not None
        told, _ = await self._process.communicate(b"go\n")
        if self._process.returncode:
            raise RuntimeError("the attackers have failed, not the server")
        found: dict[str, int] = json.loads(told)
        return found

    async def __aexit__(self, *exception: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
