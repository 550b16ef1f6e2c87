"""Real servers for tests that ask, in a process of their own or in this one, and their clients."""

import asyncio
import inspect
import json
import urllib.error
import urllib.request
from contextlib import AsyncExitStack, ExitStack
from signal import Signals

import numpy as np
import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families

from batcher import plugins, protocol
from batcher.app import running
from batcher.config import parse_config
from batcher.testing import FakeExecutor
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess


def _end(server):
    was_running = server.process.poll() is None
    code = server.stop(Signals.SIGTERM)
    print(server.log())  # noqa: T201  # pytest shows it for tests that failed
    if was_running:
        assert code == 0, f"the server drained with exit code {code}"


@pytest.fixture
def transport():
    """`server.transport` of the servers of this test; tests in `wire` run with each."""
    return "builtin"


@pytest.fixture
def serve(tmp_path, transport):
    """A function from a configuration document (and options of `ServerProcess`) to a started one."""
    with ExitStack() as stack:

        def start(config, **options):
            config = config | {"server": {"transport": transport} | config.get("server", {})}
            server = stack.enter_context(ServerProcess(config, folder=tmp_path, **options))
            stack.callback(_end, server)
            return server

        yield start


class Metrics:
    """One scrape of `/metrics`."""

    def __init__(self, text):
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name, **labels):
        """The sum of every sample of this name that has these labels, at least one."""
        wanted = labels.items()
        found = [s.value for s in self.samples if s.name == name and wanted <= s.labels.items()]
        assert found, f"no sample {name} {labels}"
        return sum(found)

    def values(self, name, label):
        """Every value that this label has among the samples of this name."""
        return {s.labels[label] for s in self.samples if s.name == name}


@pytest.fixture
def fetch():
    """A function from the `host:port` of a server's HTTP side and a path to (status, text)."""

    def read(address, path):
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def fetch(address, path):
        return await asyncio.to_thread(read, address, path)

    return fetch


@pytest.fixture
def scrape(fetch):
    """A function from the `host:port` of a server's HTTP side to its `Metrics`."""

    async def scrape(address):
        return Metrics((await fetch(address, "/metrics"))[1])

    return scrape


@pytest.fixture
def eventually():
    """A function that returns once a condition (a function, or a coroutine's) holds, or fails."""

    async def eventually(condition, *, within_s=30):
        async with asyncio.timeout(within_s):
            while True:
                held = condition()
                if await held if inspect.isawaitable(held) else held:
                    return
                await asyncio.sleep(0.01)

    return eventually


@pytest.fixture
def hello():
    """A function that makes the document of one emulated model `hello`, X FP32 [-1, 4]."""

    def make(*, server=None, base="0ms", **model):
        options = {"columns": 4, "base": base}
        entry = {"name": "hello", "executor": "emulated", "options": options}
        quick = {"warmup": {"batch_sizes": []}}
        return {"server": server or {}, "models": [entry | quick | model]}

    return make


@pytest.fixture
async def start(transport):
    """A function from a document to a started application in this process, its ports free ones."""
    async with AsyncExitStack() as stack:

        async def start(document):
            listeners = {"transport": transport, "grpc": ["127.0.0.1:0"], "http": None}
            server = listeners | document.get("server", {})
            config = parse_config(json.dumps(document | {"server": server}), "test", {})
            return await stack.enter_async_context(running(config))

        yield start


@pytest.fixture
async def dial():
    """A function from an address to a stub of a service, each on a connection of its own."""
    async with AsyncExitStack() as stack:

        async def dial(address, service=protocol.INFERENCE, *, credentials=None, options=()):
            own = [("grpc.use_local_subchannel_pool", 1), *options]
            if credentials is None:
                channel = aio.insecure_channel(address, options=own)
            else:
                channel = aio.secure_channel(address, credentials, options=own)
            await stack.enter_async_context(channel)
            return protocol.Stub(channel, service)

        yield dial


class Fakes(list):
    """Every `FakeExecutor` that was made so far, and the `options` that the next one gets."""

    def __init__(self):
        self.options = {"columns": 4}


@pytest.fixture
def fakes(monkeypatch):
    """Makes the executor name `fake` known, and holds what was made of it."""
    made = Fakes()
    real = plugins.find_executor

    def make():
        made.append(FakeExecutor(**made.options))
        return made[-1]

    monkeypatch.setattr(
        plugins, "find_executor", lambda name: make if name == "fake" else real(name)
    )
    return made


@pytest.fixture
def request_of():
    """A function that makes a request for `hello`: some rows of one value."""

    def make(value=1.0, *, rows=1, model="hello", **fields):
        return infer_request(model, {"X": np.full((rows, 4), value, np.float32)}, **fields)

    return make
