"""Servers as pods: started, ready, told of by name, told to end, ended; and restarted in place where they die."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batcher.testing.server import ServerFailedError, ServerProcess, free_address
from fleet.dns import PORT, NameServer

NAME = "ranker.test"


@dataclass(slots=True)
class Replica:
    """One server and what became of it; moments are of the monotonic clock."""

    number: int
    host: str
    server: ServerProcess
    started_ns: int
    ready_ns: int | None = None
    known_ns: int | None = None
    stopped_ns: int | None = None
    ended_ns: int | None = None
    restarts: int = 0
    exits: list[int] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether it is told of by name."""
        return self.ready_ns is not None and self.stopped_ns is None


class Fleet:
    """Replicas on 127.0.0.1, 127.0.0.2, ... with one port, as pods have. `begin` first, `end` last."""

    def __init__(self, folder: Path, config: dict[str, Any], names: NameServer) -> None:
        self._folder = folder
        self._config = config
        self._names = names
        self.port, self._http_port = (free_address().rpartition(":")[2] for _ in range(2))
        self.all: list[Replica] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.problems: list[str] = []

    @property
    def target(self) -> str:
        """What clients dial: the name, asked of our name server."""
        return f"dns://{self._names.host}:{PORT}/{NAME}:{self.port}"

    @property
    def active(self) -> list[Replica]:
        """Those that are not told to end."""
        return [each for each in self.all if each.stopped_ns is None]

    @property
    def draining(self) -> list[Replica]:
        """Those that were told to end, and have not ended."""
        return [each for each in self.all if each.stopped_ns is not None and each.ended_ns is None]

    async def begin(self, count: int) -> None:
        """Start so many, and wait until they are ready."""
        self.scale(count)
        await self._all_ready()

    def scale(self, desired: int) -> None:
        """Start what is missing; stop those that are not ready first, then the youngest."""
        for _ in range(desired - len(self.active)):
            self._start()
        surplus = max(0, len(self.active) - desired)
        for replica in sorted(self.active, key=lambda r: (r.ready, -r.number))[:surplus]:
            self._stop(replica)

    async def replace(self, replica: Replica) -> None:
        """Start another one, and when that is ready stop this one, as a rollout with a surge of one does."""
        self.scale(len(self.active) + 1)
        await self._all_ready()
        self._stop(replica)

    async def _all_ready(self) -> None:
        while not all(each.ready for each in self.active):
            if self.problems:
                raise ServerFailedError("; ".join(self.problems))
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        """Stop all, and wait for their ends."""
        self.scale(0)
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- processes ---

    def _start(self) -> None:
        taken = {each.host for each in self.all if each.ended_ns is None}
        host = next(f"127.0.0.{n}" for n in range(1, 255) if f"127.0.0.{n}" not in taken)
        replica = Replica(len(self.all), host, self._server(host), time.monotonic_ns())
        self.all.append(replica)
        self._spawn(self._live(replica))

    def _server(self, host: str) -> ServerProcess:
        listeners = {"grpc": [f"{host}:{self.port}"], "http": f"{host}:{self._http_port}"}
        server = listeners | {"replica": f"pod-{host}"} | self._config["server"]
        return ServerProcess(self._config | {"server": server}, folder=self._folder)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(repr(error))

    async def _live(self, replica: Replica) -> None:
        """Run a replica until it was told to end; one that dies before is started again."""
        while True:
            try:
                await asyncio.to_thread(replica.server.__enter__)
            except ServerFailedError as error:
                if replica.stopped_ns is None:
                    self.problems.append(f"replica {replica.number}: {error}")
                break
            process = replica.server.process
            if replica.stopped_ns is None:
                replica.ready_ns = time.monotonic_ns()
                self._names.add(replica.host)
            else:
                process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait)
            replica.exits.append(code)
            self._names.remove(replica.host)
            replica.server.__exit__(None, None, None)
            if replica.stopped_ns is not None:
                break
            replica.ready_ns = None
            replica.restarts += 1
            replica.server = self._server(replica.host)
        replica.ended_ns = time.monotonic_ns()

    def _stop(self, replica: Replica) -> None:
        replica.stopped_ns = time.monotonic_ns()
        self._names.remove(replica.host)
        self.signal(replica, signal.SIGTERM)

    @staticmethod
    def signal(replica: Replica, signum: signal.Signals) -> None:
        """Send its process a signal, if it has one."""
        with suppress(RuntimeError, ProcessLookupError):
            replica.server.process.send_signal(signum)

    def first_told(self, of: Callable[[str], int | None]) -> None:
        """Note when clients were first told of each replica."""
        for replica in self.active:
            if replica.ready and replica.known_ns is None:
                replica.known_ns = of(replica.host)
