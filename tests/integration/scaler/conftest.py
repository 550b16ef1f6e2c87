"""The external scaler in this process, replicas that do as they are told, and a client as KEDA is one."""

import asyncio
import contextlib
import json
import time
import urllib.error
import urllib.request
from contextlib import AsyncExitStack

import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families

from batcher.clock import monotonic_ns
from batcher.protocol import FLEETS, KEDA, Stub, keda, scaler
from batcher.scaler import app
from batcher.scaler.config import parse_scaler_config
from batcher.scaler.discovery import Endpoint, Found
from batcher.testing.replica import FakeReplica

PATIENCE_S = 30.0
"""How long a test waits for what must happen within a few polls."""

ANSWER_S = 1.0
"""What is promised of every answer. It takes a millisecond or two, on a machine many times slower some tens."""


class Listing:
    """A discovery that finds what a test says."""

    def __init__(self):
        self._found = None
        self._changed = asyncio.Event()

    async def run(self, update):
        while True:
            if self._found is not None:
                endpoints, error = self._found
                update(Found(endpoints, ok=not error, error=error, at_ns=monotonic_ns()))
            self._changed.clear()
            # That nothing has changed is told from time to time.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._changed.wait()

    def finds(self, *replicas):
        endpoints = [
            each if isinstance(each, Endpoint) else Endpoint(each.address) for each in replicas
        ]
        self._found = tuple(endpoints), ""
        self._changed.set()

    def fails(self, error):
        self._found = (), error
        self._changed.set()


class Keda:
    """Calls a scaler as KEDA's external scalers do; every answer comes within a second."""

    def __init__(self, channel, **metadata):
        self.stub = Stub(channel, KEDA)
        self._fleets = Stub(channel, FLEETS)
        self.ref = keda.ScaledObjectRef(
            name="ranker",
            namespace="ml",
            scalerMetadata={"scalerAddress": "scaler:9001", "fleet": "ranker"} | metadata,
        )

    async def _timed(self, call):
        began_s = time.perf_counter()
        try:
            return await call
        finally:
            assert time.perf_counter() - began_s < ANSWER_S

    async def spec(self):
        (spec,) = (await self._timed(self.stub.GetMetricSpec(self.ref))).metricSpecs
        return spec.metricName, spec.targetSizeFloat

    async def value(self, name="desired_ratio"):
        """The value as KEDA reads it, or the error of the call."""
        request = keda.GetMetricsRequest(scaledObjectRef=self.ref, metricName=name)
        try:
            response = await self._timed(self.stub.GetMetrics(request))
        except aio.AioRpcError as error:
            return error.code()
        (value,) = response.metricValues
        assert value.metricName == name
        return value.metricValueFloat if value.metricValueFloat > 0 else float(value.metricValue)

    async def active(self):
        try:
            return (await self._timed(self.stub.IsActive(self.ref))).result
        except aio.AioRpcError as error:
            return error.code()

    async def wake(self, fleet="ranker", **options):
        response = await self._timed(self._fleets.Wake(scaler.WakeRequest(fleet=fleet), **options))
        return response.active_for.ToTimedelta().total_seconds()

    async def until(self, ask, wanted):
        """Ask until the answer is the wanted one; returns all answers."""
        answers = []
        async with asyncio.timeout(PATIENCE_S):
            while not answers or answers[-1] != wanted:
                answers.append(await ask())
                await asyncio.sleep(0.02)
        return answers


class Running:
    """A scaler that runs, its listing, and what it serves by HTTP."""

    def __init__(self, scaler, listing):
        self.scaler = scaler
        self.listing = listing
        self.grpc = scaler.grpc.addresses[0]

    @property
    def fleet(self):
        return self.scaler.fleets["ranker"]

    async def state(self, state):
        """How many replicas are in that state."""
        return self.fleet.states()[state]

    def forget(self, *addresses):
        """Half a minute passes for the reports of these replicas."""
        for replica in self.fleet.replicas:
            if replica.endpoint.address in addresses:
                replica.believed_ns -= 31_000_000_000

    async def http(self, path, *, method="GET", headers=None):
        request = urllib.request.Request(
            f"http://{self.scaler.http.address}{path}", method=method, headers=headers or {}
        )

        def ask():
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await asyncio.to_thread(ask)

    async def page(self, path="/v1/fleets/ranker"):
        return json.loads((await self.http(path))[1])

    async def metrics(self):
        """The samples of `/metrics`: name and values of labels -> value."""
        _, text = await self.http("/metrics")
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
async def scaled(monkeypatch):
    """A function that starts a scaler of one fleet, `ranker`, with these keys."""
    async with AsyncExitStack() as stack:

        async def start(*, listen=None, **keys):
            listing = Listing()
            monkeypatch.setattr(app, "discovery_of", lambda _: listing)
            fleet = {
                "name": "ranker",
                "replicas": {"static": ["127.0.0.1:1"]},
                "poll": {"interval": "100ms", "timeout": "300ms"},
                # A load that changes is answered at once.
                "average": "0s",
            } | keys
            listeners = {"grpc": ["127.0.0.1:0"], "http": "127.0.0.1:0"} | (listen or {})
            config = parse_scaler_config(json.dumps({"listen": listeners, "fleets": [fleet]}))
            return Running(await stack.enter_async_context(app.running_scaler(config)), listing)

        yield start


@pytest.fixture
def keda_on():
    """A function from a channel, and metadata of a trigger, to a client."""
    return Keda


@pytest.fixture
async def keda_of():
    """A function from a scaler, and metadata of a trigger, to a client."""
    async with AsyncExitStack() as stack:

        async def connect(running, **metadata):
            channel = await stack.enter_async_context(aio.insecure_channel(running.grpc))
            return Keda(channel, **metadata)

        yield connect


@pytest.fixture
async def replicas(tmp_path):
    """A function that starts replicas, each on a Unix socket."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start(number, **keys):
            nonlocal count
            started = []
            for _ in range(number):
                count += 1
                replica = FakeReplica(f"unix:{tmp_path}/{count}.sock", **keys)
                started.append(await replica.start())
                stack.push_async_callback(replica.stop)
            return started

        yield start


@pytest.fixture
async def fleet(scaled, keda_of, replicas):
    """A scaler that knows three replicas with a load of half each, the client, and the replicas."""
    running = await scaled()
    three = await replicas(3, ratio=0.5)
    running.listing.finds(*three)
    client = await keda_of(running)
    await client.until(client.value, 1.5)
    return running, client, three
