"""A server under test: started, warmed, and asked how it does at one rate or another."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from callers import caller
from open_loop import ON_TIME_NS, Round, play
from processes import Processes
from quiet import LATE_MS
from servers import Server, Settings, Started

START_S = 90.0
"""How long a server may take until its first right answer."""

CALM_S = 4.0
"""How long a server may take after a round until one request alone is in time again. One that takes
longer is started again, and the result says how often."""


@dataclass(slots=True)
class Durations:
    """How long the rounds are, in seconds."""

    warm: float = 2.0
    sweep: float = 1.5
    """A round while settings are tried."""
    tune: float = 65.0
    """No more settings are tried after this time, starts not counted."""
    same: float = 5.0
    """The round at the same rate for all."""
    final: float = 3.0
    """A round of the search for the highest rate."""
    tries: int = 3
    """A rate holds if one of so many rounds holds it."""
    search: float = 60.0
    """No further search is begun after this time."""
    most: float = 400.0
    """A server that takes longer in all is not measured, and the result says so."""
    repeats: int = 3
    """So often that search is done; the median counts."""


class Trial:
    """One server with one choice of settings, as a context manager. Raises `NotStartedError`."""

    def __init__(self, server: Server, settings: Settings, python: Path, core: int) -> None:
        self._server = server
        self._settings = settings
        self._python = python
        self._core = core
        self._stack = AsyncExitStack()
        self._asked = 0
        self.address = ("127.0.0.1", 0)
        self.start_s = 0.0
        """From its start to its first right answer."""

    async def __aenter__(self) -> Self:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        try:
            began = time.monotonic()
            started = self._start(folder)
            self.address = ("127.0.0.1", started.port)
            await self._first_answer()
            self.start_s = time.monotonic() - began
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def warm(self, seconds: float) -> None:
        """Let caches fill, code be compiled and times be learned, at rates that every server takes."""
        for rate, share in ((50, 0.3), (150, 0.7)):
            await self.round(rate, seconds * share, seed=rate, stop_early=False)
            await self.calm()

    async def round(self, rate: float, seconds: float, *, seed: int, stop_early: bool) -> Round:
        """Offer that rate; once more where the load was sent late."""
        for again in range(2):
            found = await play(
                self.address,
                self._server.protocol,
                rate,
                seconds,
                seed=2 * seed + again,
                stop_early=stop_early,
                server_cpu=self._processes.cpu_seconds,
            )
            if found.stopped or found.sent_late_ms.get("p99", 0.0) <= LATE_MS:
                break
        return found

    async def calm(self) -> bool:
        """Wait until a request alone is in time, for `CALM_S` at most; whether one was."""
        end = time.monotonic() + CALM_S
        while time.monotonic() < end and not self._processes.ended:
            if await self._one(timeout_s=1.0):
                return True
            await asyncio.sleep(0.1)
        return False

    def reported_version(self) -> str:
        """What the server wrote of its own version; empty where nothing."""
        found = re.search(r"server_version\s*\|\s*([0-9.]+)", self._processes.log())
        return found[1] if found else ""

    def _start(self, folder: Path) -> Started:
        started = self._server.start(self._settings, self._python, folder)
        environ = {"BATCHER_PEERS_LOCK": str(folder / "device.lock"), **started.environ}
        self._processes = self._stack.enter_context(
            Processes(started.command, environ, folder, self._core)
        )
        return started

    async def _first_answer(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self._check()
            if await self._one(timeout_s=5.0, in_time=False):
                return
            await asyncio.sleep(0.1)
        raise self._processes.failure(f"no right answer within {START_S:g} s")

    def _check(self) -> None:
        if self._processes.ended:
            raise self._processes.failure("it ended")

    async def _one(self, *, timeout_s: float, in_time: bool = True) -> bool:
        """Whether one request alone is answered right (and in time)."""
        ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

        def settle(place: int, now_ns: int, failure: str) -> None:
            del place
            if not ended.done():
                ended.set_result((now_ns, failure))

        protocol = self._server.protocol
        self._asked += 1
        (question,) = protocol.questions(1, self._asked)
        load = caller(self.address, protocol, settle)
        try:
            await load.open()
            due_ns = time.monotonic_ns()
            load.send(0, due_ns, question)
            now_ns, failure = await asyncio.wait_for(ended, timeout_s)
        except (OSError, TimeoutError):
            return False
        finally:
            await load.close()
        return not failure and (not in_time or now_ns - due_ns <= ON_TIME_NS)
