"""What tests of discoveries share: a DNS server on the loopback address, and a discovery under test that does not wait."""

import asyncio
import random
import sys
from pathlib import Path

import dns.asyncresolver
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from name_server import NameServer, serving

BOUND_S = 60
"""How long a test waits for what must happen; only a failing one waits."""


class Running:
    """A discovery that runs: what it told, and the pauses that it asked for, which end when the test says so."""

    def __init__(self):
        self.told = []
        self.pauses = []
        self._more = asyncio.Condition()
        self._ends = asyncio.Semaphore(0)
        self.task = None

    def update(self, found):
        self.told.append(found)
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self):
        async with self._more:
            self._more.notify_all()

    async def pause(self, seconds):
        self.pauses.append(seconds)
        await self._notify()
        await self._ends.acquire()

    async def until(self, true):
        """Wait until `true()`; a discovery that has ended fails the test."""
        async with asyncio.timeout(BOUND_S), self._more:
            await self._more.wait_for(lambda: true() or self.task.done())
        assert true(), self.task

    async def next(self):
        """Let one pause end, and return what is told next."""
        count = len(self.told)
        self._ends.release()
        await self.until(lambda: len(self.told) > count)
        return self.told[count]

    async def first(self):
        await self.until(lambda: self.told)
        return self.told[0]

    def go_on(self):
        """Let one pause end."""
        self._ends.release()

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled(), self.task


@pytest.fixture
async def running():
    """Starts a discovery: `running(lambda pause: Discovery(..., pause=pause))`; all are stopped at the end."""
    started = []

    def start(make):
        run = Running()
        run.task = asyncio.ensure_future(make(run.pause).run(run.update))
        run.task.add_done_callback(lambda _: asyncio.ensure_future(run._notify()))
        started.append(run)
        return run

    yield start
    for each in started:
        if not each.task.done():
            await each.stop()


@pytest.fixture
async def name_server():
    async with serving(NameServer()) as server:
        yield server


@pytest.fixture
def resolver(name_server):
    """Makes resolvers that ask `name_server`."""
    made = dns.asyncresolver.Resolver(configure=False)
    made.nameservers = ["127.0.0.1"]
    made.port = name_server.port
    made.timeout = 1.0
    return made


@pytest.fixture
def rng():
    return random.Random(1)
