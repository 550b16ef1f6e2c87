"""TLS and mutual TLS between KEDA and the scaler."""

import asyncio
import ssl

import grpc
import pytest
from cryptography import x509
from grpc import aio

from batcher.protocol import KEDA

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def ask(scaler, dial, ref):
    """A function that asks a scaler for the state of the fleet, over TLS or not."""

    async def ask(address, credentials=None, options=()):
        stub = await dial(address, KEDA, credentials=credentials, options=options)
        return await stub.IsActive(ref, timeout=30)

    return ask


async def refused(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is UNAVAILABLE
    return caught.value.details()


@pytest.fixture
async def started(scaler, replica, files, authority, issued):
    """A function that starts a scaler with TLS, mutual or not."""

    async def start(*, mutual=False, pair=None):
        pair = pair or issued("scaler", authority)
        tls = files(cert=pair.cert, key=pair.key)
        if mutual:
            tls |= {"client_ca": files(client_ca=authority.cert)["client_ca"]}
        running = await scaler(await replica(ratio=0.5), listen={"tls": tls})
        return running, running.grpc.addresses[0]

    return start


def trusting(ca, client=None):
    key, cert = (None, None) if client is None else (client.key, client.cert)
    return grpc.ssl_channel_credentials(ca.cert, key, cert)


async def test_a_client_that_trusts_the_authority_is_answered(started, ask, authority):
    _, address = await started()
    assert (await ask(address, trusting(authority))).result


async def test_a_plain_client_is_not(started, ask):
    _, address = await started()
    await refused(ask(address))


async def test_a_client_that_trusts_another_authority_refuses(started, ask, stranger):
    _, address = await started()
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(ask(address, trusting(stranger)))


async def test_a_client_refuses_another_name_unless_it_expects_it(started, ask, authority, issued):
    _, address = await started(pair=issued("scaler", authority, host="batcher-scaler.ml.svc"))
    await refused(ask(address, trusting(authority)))
    expecting = [("grpc.ssl_target_name_override", "batcher-scaler.ml.svc")]
    assert (await ask(address, trusting(authority), expecting)).result


async def test_a_client_refuses_what_has_expired(started, ask, authority, expired):
    _, address = await started(pair=expired)
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(ask(address, trusting(authority)))


async def test_mutual_tls_answers_only_clients_of_the_authority(
    started, ask, authority, stranger, expired, issued
):
    _, address = await started(mutual=True)
    assert (await ask(address, trusting(authority, issued("keda", authority)))).result
    await refused(ask(address, trusting(authority)))
    await refused(ask(address, trusting(authority, issued("keda", stranger))))
    await refused(ask(address, trusting(authority, expired)))


async def presented(address):
    """The serial number of the certificate that the scaler presents to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


@pytest.mark.usefixtures("quick")
async def test_renewed_files_are_presented_and_calls_that_are_open_stay(
    started, dial, files, authority, issued, eventually, ref
):
    running, address = await started()
    stub = await dial(address, KEDA, credentials=trusting(authority))
    stream = stub.StreamIsActive(ref)
    assert (await stream.read()).result
    renewed = issued("renewed", authority)
    files(cert=renewed.cert, key=renewed.key)
    serial = renewed.certificate.serial_number

    async def changed():
        return await presented(address) == serial

    await eventually(changed)
    assert not stream.done()
    assert (await stub.IsActive(ref, timeout=30)).result
    await running.close()
    assert await stream.read() is aio.EOF


@pytest.mark.usefixtures("quick")
async def test_files_that_are_wrong_are_not_used(
    started, ask, files, authority, issued, eventually, caplog
):
    _, address = await started()
    before = await presented(address)
    files(cert=issued("of another key", authority).cert)
    await eventually(lambda: "the changed certificates are not used" in caplog.text)
    assert await presented(address) == before
    assert (await ask(address, trusting(authority))).result


@pytest.mark.usefixtures("quick")
async def test_a_renewed_authority_of_clients(
    started, ask, files, authority, stranger, issued, eventually
):
    _, address = await started(mutual=True)
    of_the_new = trusting(authority, issued("keda", stranger))
    await refused(ask(address, of_the_new))
    files(client_ca=stranger.cert)

    async def taken():
        try:
            return (await ask(address, of_the_new)).result
        except aio.AioRpcError:
            return False

    await eventually(taken)
    await refused(ask(address, trusting(authority, issued("keda", authority))))
