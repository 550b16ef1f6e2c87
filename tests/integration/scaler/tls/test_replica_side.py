"""TLS and mutual TLS between the scaler and the replicas: one that cannot be trusted is not known, and never idle."""

import grpc
import pytest
from grpc import aio

from batcher.protocol import KEDA

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def stub_of(dial):
    async def stub_of(scaler):
        return await dial(scaler.grpc.addresses[0], KEDA)

    return stub_of


@pytest.fixture
def known(stub_of, metric, eventually):
    """Waits until the scaler knows the load of its fleet, and returns it."""

    async def known(scaler):
        stub = await stub_of(scaler)
        values = []

        async def value():
            try:
                answer = await stub.GetMetrics(metric, timeout=30)
            except aio.AioRpcError as error:
                if error.code() is not UNAVAILABLE:
                    raise
                return False
            values.append(answer.metricValues[0].metricValueFloat)
            return True

        await eventually(value)
        return values[-1]

    return known


@pytest.fixture
def unknown(stub_of, ref, metric, eventually):
    """Waits until the scaler has asked the replica in vain, and returns why; KEDA is told nothing of its load."""

    async def unknown(scaler):
        fleet = scaler.fleets["ranker"]
        await eventually(lambda: fleet.has_looked)
        (replica,) = fleet.replicas
        stub = await stub_of(scaler)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.GetMetrics(metric, timeout=30)
        assert caught.value.code() is UNAVAILABLE
        assert replica.endpoint.address in caught.value.details()
        assert (await stub.IsActive(ref, timeout=30)).result
        return replica.error

    return unknown


async def test_replicas_of_the_authority_are_asked(
    scaler, replica, files, authority, issued, known
):
    one = await replica(issued("replica", authority), ratio=0.5)
    assert await known(await scaler(one, tls=files(ca=authority.cert))) == 0.5


async def test_a_replica_of_another_authority(
    scaler, replica, files, authority, stranger, issued, unknown
):
    one = await replica(issued("replica", stranger), ratio=0.5)
    why = await unknown(await scaler(one, tls=files(ca=authority.cert)))
    assert "CERTIFICATE_VERIFY_FAILED" in why
    assert not one.polls


async def test_the_authorities_of_the_system_do_not_count_for_a_replica(
    scaler, replica, authority, issued, unknown
):
    one = await replica(issued("replica", authority), ratio=0.5)
    assert "CERTIFICATE_VERIFY_FAILED" in await unknown(await scaler(one, tls={}))


async def test_a_certificate_that_has_expired(scaler, replica, files, authority, expired, unknown):
    one = await replica(expired, ratio=0.5)
    assert "CERTIFICATE_VERIFY_FAILED" in await unknown(
        await scaler(one, tls=files(ca=authority.cert))
    )


async def test_pods_are_asked_by_address_and_known_by_name(
    scaler, replica, files, authority, issued, known, unknown
):
    one = await replica(issued("replica", authority, host="ranker.ml.svc"), ratio=0.5)
    tls = files(ca=authority.cert)
    why = await unknown(await scaler(one, tls=tls))
    assert "verification" in why.lower()
    assert not one.polls
    await unknown(await scaler(one, tls={**tls, "server_name": "other.ml.svc"}))
    assert await known(await scaler(one, tls={**tls, "server_name": "ranker.ml.svc"})) == 0.5


async def test_a_replica_without_tls(scaler, replica, files, authority, unknown):
    one = await replica(ratio=0.5)
    await unknown(await scaler(one, tls=files(ca=authority.cert), poll=SHORT))
    assert not one.polls


SHORT = {"interval": "100ms", "timeout": "1s"}
"""Where nothing is ever answered."""


async def test_a_replica_with_tls_that_is_asked_without(
    scaler, replica, authority, issued, unknown
):
    one = await replica(issued("replica", authority), ratio=0.5)
    await unknown(await scaler(one, poll=SHORT))
    assert not one.polls


class TestMutual:
    @pytest.fixture
    async def one(self, replica, authority, issued):
        """A replica that answers clients of the authority only."""
        return await replica(issued("replica", authority), client_ca=authority, ratio=0.5)

    async def test_a_client_of_the_authority(self, one, scaler, files, authority, issued, known):
        client = issued("scaler", authority)
        tls = files(ca=authority.cert, cert=client.cert, key=client.key)
        assert await known(await scaler(one, tls=tls)) == 0.5

    async def test_no_certificate(self, one, scaler, files, authority, unknown):
        await unknown(await scaler(one, tls=files(ca=authority.cert), poll=SHORT))
        assert not one.polls

    @pytest.mark.parametrize("of", ["another authority", "yesterday"])
    async def test_a_certificate_that_is_not_taken(
        self, one, scaler, files, authority, stranger, expired, issued, unknown, of
    ):
        client = expired if of == "yesterday" else issued("scaler", stranger)
        tls = files(ca=authority.cert, cert=client.cert, key=client.key)
        await unknown(await scaler(one, tls=tls, poll=SHORT))
        assert not one.polls

    @pytest.mark.usefixtures("quick")
    async def test_a_renewed_certificate_is_presented(
        self, one, scaler, files, authority, expired, issued, known, unknown
    ):
        tls = files(ca=authority.cert, cert=expired.cert, key=expired.key)
        running = await scaler(one, tls=tls, poll=SHORT)
        await unknown(running)
        client = issued("scaler", authority)
        files(cert=client.cert, key=client.key)
        assert await known(running) == 0.5


@pytest.mark.usefixtures("quick")
async def test_a_renewed_authority_of_the_replicas(
    scaler, replica, files, authority, stranger, issued, known, unknown, eventually, caplog
):
    one = await replica(issued("replica", stranger), ratio=0.5)
    running = await scaler(one, tls=files(ca=authority.cert))
    await unknown(running)
    files(ca=b"no certificate")
    await eventually(lambda: "the changed certificates are not used" in caplog.text)
    await unknown(running)
    files(ca=stranger.cert)
    assert await known(running) == 0.5


@pytest.mark.usefixtures("quick")
async def test_while_files_are_renewed_what_was_said_still_counts(
    scaler, replica, files, authority, stranger, issued, known, eventually
):
    """The replicas are not trusted any more: their last word counts for `keep_last`, and then nothing is known."""
    one = await replica(issued("replica", authority), ratio=0.5)
    running = await scaler(one, tls=files(ca=authority.cert), poll=SHORT)
    assert await known(running) == 0.5
    (asked,) = running.fleets["ranker"].replicas
    files(ca=stranger.cert)
    await eventually(lambda: asked.error)
    assert await known(running) == 0.5


@pytest.mark.slow
async def test_servers_speak_tls_to_it(serve, scaler, hello, files, authority, issued, known):
    """A server in its own process, with mutual TLS."""
    pair, client = issued("server", authority), issued("scaler", authority)
    tls = files(server_cert=pair.cert, server_key=pair.key, client_ca=authority.cert)
    server = serve(
        hello(
            server={
                "tls": {
                    "cert": tls["server_cert"],
                    "key": tls["server_key"],
                    "client_ca": tls["client_ca"],
                }
            }
        )
    )
    of = type("Server", (), {"address": server.grpc})
    fleet_tls = files(ca=authority.cert, cert=client.cert, key=client.key)
    running = await scaler(of, tls=fleet_tls)
    assert await known(running) == 0
