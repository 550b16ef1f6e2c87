"""The scaler finds a fleet in EndpointSlices and in DNS, from zero to some replicas and back, and loses the list."""

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import dns.asyncresolver
import dns.rcode
import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.clock import SECOND
from batcher.scaler import app
from batcher.scaler.config import parse_scaler_config
from batcher.scaler.discovery import STALE_NS, named
from batcher.scaler.discovery.kubernetes import account
from batcher.testing.replica import FakeReplica

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "scaler" / "discovery"))

import kubernetes_fake as kubernetes
from name_server import NameServer, serving

REF = protocol.keda.ScaledObjectRef(name="ranker", namespace="ml", scalerMetadata={"target": "0.8"})
METRIC = protocol.keda.GetMetricsRequest(scaledObjectRef=REF, metricName="desired_ratio")

pytestmark = pytest.mark.slow


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def replica(stack):
    async def start(address="127.0.0.1:0", **more):
        made = await FakeReplica(address, **more).start()
        stack.push_async_callback(made.stop)
        return made

    return start


@pytest.fixture
def keda(stack, dial, eventually):
    """A function that starts a scaler and returns what KEDA would see: a function that waits for it."""

    async def start(replicas, **fleet):
        document = {
            "listen": {"grpc": ["127.0.0.1:0"], "http": None},
            "fleets": [
                {
                    "name": "ranker",
                    "replicas": replicas,
                    "poll": {"interval": "100ms", "timeout": "20s"},
                    "idle_after": "600ms",
                    "wake_for": 0,
                    **fleet,
                }
            ],
        }
        config = parse_scaler_config(json.dumps(document), "test")
        scaler = await stack.enter_async_context(app.running_scaler(config))
        stub = await dial(scaler.grpc.addresses[0], protocol.KEDA)

        async def seen():
            """Whether it is active, and its load; None: not known."""
            try:
                active = (await stub.IsActive(REF, timeout=30)).result
            except aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                active = None
            try:
                answer = await stub.GetMetrics(METRIC, timeout=30)
            except aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                return active, None
            return active, answer.metricValues[0].metricValueFloat

        async def until(active, load):
            async def so():
                return await seen() == (active, load)

            await eventually(so)

        until.seen, until.scaler = seen, scaler
        return until

    return start


class TestEndpointSlices:
    @pytest.fixture
    async def api_server(self, tmp_path, monkeypatch):
        """An API server, and the files of a pod that may ask it."""
        authority = kubernetes.Pair("authority")
        server = kubernetes.ApiServer(kubernetes.Pair("api", authority).write(tmp_path / "api.pem"))
        await server.start()
        files = {"ca.crt": authority.pem, "token": b"token", "namespace": b"ml"}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        monkeypatch.setattr(account, "FOLDER", tmp_path)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        yield server
        await server.stop()

    async def test_from_zero_and_back(self, api_server, keda, replica):
        seen = await keda({"endpoint_slices": {"service": "ranker", "port": "grpc"}})
        assert await seen.seen() == (None, None), "before the list was read, nothing is known"
        empty = kubernetes.endpoint_slice("a", ports=[])
        await (await api_server.list()).answer(kubernetes.listed(empty))
        await seen(False, 0)
        watch = await api_server.watch()
        await watch.begin()

        one, two = await replica(ratio=0.5), await replica(ratio=0.25)
        for number, each in enumerate((one, two)):
            port = int(each.address.rpartition(":")[2])
            part = kubernetes.endpoint_slice(
                f"s{number}",
                kubernetes.endpoint("127.0.0.1", pod=f"p{number}"),
                version=str(20 + number),
                ports=[{"name": "grpc", "port": port}],
            )
            await watch.send(kubernetes.event("ADDED", part))
        await seen(True, 0.75)

        await api_server.stop()  # the list is lost, the replicas are asked on
        one.ratio = 1.0
        await seen(True, 1.25)

    async def test_a_list_that_cannot_be_read_is_never_idle(self, api_server, keda):
        seen = await keda({"endpoint_slices": {"service": "ranker", "port": "grpc"}})
        forbidden = kubernetes.status(403, "Forbidden", "no")
        await (await api_server.list()).answer(forbidden, 403)
        fleet = seen.scaler.fleets["ranker"]
        request = await api_server.list()  # it has been told, and asks again
        assert "may not list endpointslices" in fleet.found.error
        assert await seen.seen() == (None, None)
        await request.answer(kubernetes.listed(kubernetes.endpoint_slice("a", ports=[])))
        await seen(False, 0)


class TestDns:
    @pytest.fixture
    async def name_server(self, monkeypatch):
        """The DNS server of this machine; its answers live a second."""
        async with serving(NameServer()) as server:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
            monkeypatch.setattr(named, "SystemResolver", lambda: lambda: resolver)
            monkeypatch.setattr(named, "LEAST_S", 0.02)
            monkeypatch.setattr(named, "LONGEST_S", 0.02)
            yield server

    async def test_from_one_to_none_and_back(self, name_server, keda, replica):
        one = await replica(ratio=0)
        port = one.address.rpartition(":")[2]
        two = await replica(f"127.0.0.2:{port}", ratio=0.25)
        name = "ranker.ml."
        name_server.zone[name, "A"] = ["127.0.0.1"]
        seen = await keda({"dns": f"{name}:{port}"})
        await seen(False, 0)
        one.ratio = 0.5
        await seen(True, 0.5)
        name_server.zone[name, "A"] = ["127.0.0.1", "127.0.0.2"]
        await seen(True, 0.75)
        two.ratio = 0.5
        name_server.rcode["*"] = dns.rcode.SERVFAIL
        await seen(True, 1.0)
        name_server.rcode.clear()
        name_server.zone.clear()
        await seen(False, 0)
        name_server.rcode["*"] = dns.rcode.SERVFAIL
        await seen(None, None)

    async def test_a_name_that_is_misspelled_is_never_idle(self, name_server, keda, eventually):
        seen = await keda({"dns": "rankr.ml.:8001"})
        fleet = seen.scaler.fleets["ranker"]
        await eventually(lambda: fleet.found is not None)
        assert "there is no address of the name rankr.ml." in fleet.found.error
        assert await seen.seen() == (None, None)


def test_a_list_is_stale_after_three_heartbeats():
    assert STALE_NS == 30 * SECOND
