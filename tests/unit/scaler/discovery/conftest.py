"""What tests of discoveries share: a DNS server on the loopback address, and a discovery under test that does not wait."""

import asyncio
import random
import sys
from pathlib import Path

import dns.asyncresolver
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kubernetes_fake import ONE, ApiServer, Pair, listed
from name_server import NameServer, serving

from batcher.clock import SECOND
from batcher.scaler.discovery.kubernetes.account import Account
from batcher.scaler.discovery.kubernetes.sliced import SlicedReplicas

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


@pytest.fixture(scope="session")
def authority():
    return Pair("authority")


@pytest.fixture(scope="session")
def server_file(authority, tmp_path_factory):
    return Pair("server", authority).write(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
async def kubernetes(server_file):
    server = ApiServer(server_file)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def folder(tmp_path, authority):
    """The files of a ServiceAccount."""
    (tmp_path / "token").write_text("token-1\n")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "namespace").write_text("ml")
    return tmp_path


class ManualClock:
    def __init__(self):
        self.now = 5 * SECOND

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def look(running, kubernetes, folder, clock, rng):
    def start(namespace=None, port="grpc", **environ):
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(kubernetes.port),
            **environ,
        }
        return running(
            lambda pause: SlicedReplicas(
                "ranker",
                namespace,
                port,
                account=Account(environ, folder),
                clock=clock,
                pause=pause,
                rng=rng,
            )
        )

    return start


@pytest.fixture
async def watched(look, kubernetes):
    """A discovery that has listed one replica, and its watch, of which the head has been sent."""
    looking = look()
    await (await kubernetes.list()).answer(listed(ONE))
    await looking.first()
    watch = await kubernetes.watch()
    await watch.begin()
    return looking, watch
