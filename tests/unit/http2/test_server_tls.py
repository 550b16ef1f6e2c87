"""TLS of a real server on loopback: connections in a handshake count and end like others."""

import asyncio
import datetime as dt
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from raw_http2 import RawClient, all_closed, echo, unary, until

from batcher.http2 import server_connection
from batcher.http2.connection_lifetime import PROBE_CONNECTION_NS
from batcher.http2.counters import EndReason
from batcher.http2.sansio.frames import PREFACE


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """The context of a server with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_alpn_protocols(["h2"])
    return context


@pytest.fixture
def encrypted(serve, secrets):
    async def start(limits=None, **methods):
        server, _ = await serve(limits, **methods)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await server.listen(sock, secrets)
        return server, port

    return start


@pytest.fixture
async def connect():
    writers = []

    async def connect(port, *protocols):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(protocols)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writers.append(writer)
        return RawClient(reader, writer)

    yield connect
    for writer in writers:
        writer.close()


async def test_a_client_that_speaks_h2_is_answered(encrypted, connect):
    server, port = await encrypted(Echo=unary(echo))
    client = await connect(port, "h2")
    client.write(PREFACE, client.settings())
    client.open(1, "Echo")
    client.send(1, bytes(60_000))
    assert len((await client.answer(1))[1]) == 60_005
    client.writer.transport.abort()
    await all_closed(server)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
async def test_a_client_that_does_not_offer_h2_is_disconnected(encrypted, connect, protocols):
    server, port = await encrypted(Echo=unary(echo))
    client = await connect(port, *protocols)
    client.write(PREFACE, client.settings())
    assert await client.ended() == []
    await all_closed(server)
    assert server.counters.ended[EndReason.HANDSHAKE] == 1


async def test_an_error_at_its_beginning_ends_one_connection(
    encrypted, raw, connect, monkeypatch, caplog
):
    server, port = await encrypted(Echo=unary(echo))
    enable_keepalive = server_connection.enable_keepalive

    def fail(sock):
        monkeypatch.setattr(server_connection, "enable_keepalive", enable_keepalive)
        raise OSError("not a socket")

    monkeypatch.setattr(server_connection, "enable_keepalive", fail)
    first = await raw(f"127.0.0.1:{port}", preface=False)
    assert await first.ended() == []
    await all_closed(server)
    assert server.counters.ended[EndReason.INTERNAL] == 1
    assert "internal error" in caplog.text
    client = await connect(port, "h2")
    client.write(PREFACE, client.settings())
    client.open(1, "Echo")
    client.send(1, b"hello")
    assert (await client.answer(1))[1][5:] == b"hello"
    client.writer.transport.abort()
    await all_closed(server)


async def test_handshakes_count_in_max_connections(encrypted, raw, connect):
    server, port = await encrypted({"max_connections": 2}, Echo=unary(echo))
    for _ in range(2):
        await raw(f"127.0.0.1:{port}", preface=False)
    await until(lambda: len(server.connections) == 2)
    beyond = await raw(f"127.0.0.1:{port}", preface=False)
    await until(lambda: len(server.connections) == 3)
    server.sweep(PROBE_CONNECTION_NS)
    assert await beyond.ended() == []
    assert server.counters.ended[EndReason.TOO_MANY] == 1
    assert server.counters.ended[EndReason.HANDSHAKE] == 0
    assert len(server.connections) == 2


async def test_silent_handshakes_are_closed_for_new_connections(encrypted, raw, connect):
    server, port = await encrypted({"max_connections": 1}, Echo=unary(echo))
    silent = await raw(f"127.0.0.1:{port}", preface=False)
    await until(lambda: server.connections)
    for _ in range(11):
        server.sweep(10**9)
    client = await connect(port, "h2")
    client.write(PREFACE, client.settings())
    await client.ping()
    await silent.ended()


@pytest.mark.parametrize("sent", [b"", b"no handshake at all"])
async def test_handshakes_that_fail_or_never_begin(encrypted, raw, monkeypatch, sent):
    monkeypatch.setattr(server_connection, "PREFACE_TIMEOUT_S", 0.05)
    server, port = await encrypted()
    silent = await raw(f"127.0.0.1:{port}", preface=False)
    silent.write(sent)
    await until(lambda: server.counters.ended[EndReason.HANDSHAKE])
    await all_closed(server)


async def test_a_client_that_disconnects_in_its_handshake(encrypted, raw):
    server, port = await encrypted()
    client = await raw(f"127.0.0.1:{port}", preface=False)
    await until(lambda: server.connections)
    client.writer.transport.abort()
    await all_closed(server)
    assert server.counters.ended[EndReason.HANDSHAKE] == 1


async def test_handshakes_end_when_the_server_stops(encrypted, raw):
    server, port = await encrypted()
    client = await raw(f"127.0.0.1:{port}", preface=False)
    await until(lambda: server.connections)
    await server.stop(0)
    await client.ended()
    await all_closed(server)


async def test_probes_are_answered_beyond_max_connections(encrypted, connect):
    server, port = await encrypted(
        {"max_connections": 1, "is_probe": lambda path: path == "/s/Check"},
        Check=unary(echo),
        Echo=unary(echo),
    )
    first = await connect(port, "h2")
    first.write(PREFACE, RawClient.settings())
    await first.ping()
    client = await connect(port, "h2")
    client.write(PREFACE, RawClient.settings())
    for number, name in ((1, "Check"), (3, "Echo")):
        client.open(number, name)
        client.send(number, b"x")
        fields, body = await client.answer(number)
        assert (body, fields["grpc-status"]) in {(b"\0\0\0\0\1x", "0"), (b"", "14")}
    assert fields["grpc-status"] == "14"
    await client.ended()
    client.writer.close()
    await until(lambda: len(server.connections) == 1)
    await first.ping()
