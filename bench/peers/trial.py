"""A server under test: started, warmed, and asked how it does at one rate or another."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from callers import caller
from open_loop import ON_TIME_NS, Round, play
from processes import NotStartedError, Processes
from quiet import LATE_MS
from servers import Server, Settings, Started

from batcher.clock import SECOND

START_S = 90.0
"""How long a server may take until its first right answer."""

CALM_S = 8.0
"""How long a server may take after a round until one request alone is in time again."""


@dataclass(slots=True)
class Pace:
    """How long the rounds are, in seconds."""

    warm: float = 2.0
    sweep: float = 1.5
    final: float = 3.0
    repeats: int = 3


class Trial:
    """One server with one choice of settings, as a context manager. Raises `NotStartedError`."""

    def __init__(self, server: Server, settings: Settings, python: Path, core: int) -> None:
        self._server = server
        self._settings = settings
        self._python = python
        self._core = core
        self._stack = AsyncExitStack()
        self._seed = 0
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

    async def warm(self, seconds: float, rate: float) -> None:
        """Let caches fill, code be compiled and times be learned."""
        for share in (0.3, 1.0):
            await self.round(rate * share, seconds / 2, stop_early=False)
            await self.calm()

    async def round(self, rate: float, seconds: float, *, stop_early: bool) -> Round:
        """Offer that rate; once more where the load was sent late."""
        for _ in range(2):
            self._seed += 1
            found = await play(
                self.address,
                self._server.protocol,
                rate,
                seconds,
                seed=self._seed,
                stop_early=stop_early,
                server_cpu=self._processes.cpu_seconds,
            )
            if found.sent_late_ms.get("p99", 0.0) <= LATE_MS or found.stopped:
                break
        return found

    async def calm(self) -> None:
        """Return once a request alone is in time. Raises `NotStartedError` where none is."""
        end = time.monotonic() + CALM_S
        while time.monotonic() < end:
            if await self._one(timeout_s=1.0):
                return
            self._check()
            await asyncio.sleep(0.1)
        raise self._processes.failure(f"not in time with one request {CALM_S:g} s after a round")

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
        self._seed += 1
        (question,) = protocol.questions(1, self._seed)
        load = caller(self.address, protocol, settle)
        try:
            await load.open()
            due_ns = time.monotonic_ns()
            load.send(0, due_ns, question)
            now_ns, self.said = await asyncio.wait_for(ended, timeout_s)
        except (OSError, TimeoutError) as error:
            self.said = str(error) or "no answer"
            return False
        finally:
            await load.close()
        return not self.said and (not in_time or now_ns - due_ns <= ON_TIME_NS)


def shown(settings: Settings, chosen: Settings) -> str:
    """Settings as text, those of `settings` with what was chosen."""
    return ", ".join(f"{name} {value}" for name, value in {**settings, **chosen}.items())


__all__ = ["SECOND", "NotStartedError", "Pace", "Trial", "shown"]
