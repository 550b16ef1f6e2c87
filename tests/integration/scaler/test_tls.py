"""TLS and mutual TLS to both sides, and certificates that are renewed."""

import datetime as dt
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc import aio

from batcher.testing.replica import FakeReplica


class Issued:
    """A certificate and its key, as PEM and as objects; without an issuer, an authority's own."""

    def __init__(self, name, issuer=None):
        self.private = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        hosts = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(
                x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True
            )
        )
        self.certificate = builder.sign(issuer.private if issuer else self.private, hashes.SHA256())
        self.cert = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.key = self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(self, folder, name):
        (folder / f"{name}.crt").write_bytes(self.cert)
        (folder / f"{name}.key").write_bytes(self.key)
        return {"cert": str(folder / f"{name}.crt"), "key": str(folder / f"{name}.key")}


@pytest.fixture(scope="module")
def authority():
    return Issued("authority")


@pytest.fixture
def ca(authority, tmp_path):
    (tmp_path / "ca.crt").write_bytes(authority.cert)
    return str(tmp_path / "ca.crt")


@pytest.fixture
async def replica(authority):
    """A replica that asks callers for a certificate, and has one for a name."""
    issued = Issued("ranker.ml.svc", authority)
    credentials = grpc.ssl_server_credentials(
        [(issued.key, issued.cert)], authority.cert, require_client_auth=True
    )
    replica = await FakeReplica(ratio=0.5, credentials=credentials).start()
    yield replica
    await replica.stop()


async def test_mutual_tls_to_the_replicas(scaled, keda_of, replica, authority, ca, tmp_path):
    files = Issued("scaler", authority).write(tmp_path, "scaler")
    running = await scaled(tls={"ca": ca, "server_name": "ranker.ml.svc"} | files)
    running.listing.finds(replica)
    client = await keda_of(running)
    await client.until(client.value, 0.5)


async def test_certificates_to_the_replicas_are_read_again(
    scaled, keda_of, replica, authority, ca, tmp_path
):
    stranger = Issued("stranger")
    files = Issued("scaler", stranger).write(tmp_path, "scaler")
    running = await scaled(tls={"ca": ca, "server_name": "ranker.ml.svc"} | files)
    running.listing.finds(replica)
    client = await keda_of(running)
    await client.until(lambda: running.state("unknown"), 1)
    assert await client.active() is True
    (tmp_path / "scaler.crt").write_text("half a file")
    running.fleet.refresh_certificates()
    assert await client.value() is grpc.StatusCode.UNAVAILABLE
    Issued("scaler", authority).write(tmp_path, "scaler")
    await client.until(client.value, 0.5)


async def test_a_replica_of_another_name_is_not_asked(
    scaled, keda_of, replica, ca, authority, tmp_path
):
    files = Issued("scaler", authority).write(tmp_path, "scaler")
    running = await scaled(tls={"ca": ca, "server_name": "another.ml.svc"} | files)
    running.listing.finds(replica)
    client = await keda_of(running)
    await client.until(lambda: running.state("unknown"), 1)
    await client.until(client.value, grpc.StatusCode.UNAVAILABLE)
    assert replica.polls == 0


async def test_mutual_tls_from_keda(scaled, keda_on, authority, ca, tmp_path):
    files = Issued("scaler", authority).write(tmp_path, "listener")
    running = await scaled(listen={"tls": files | {"client_ca": ca}})
    running.listing.finds()
    known = Issued("keda", authority)
    credentials = grpc.ssl_channel_credentials(authority.cert, known.key, known.cert)
    async with aio.secure_channel(running.grpc, credentials) as channel:
        client = keda_on(channel)
        await client.until(client.active, False)
    for credentials in (
        grpc.ssl_channel_credentials(authority.cert),
        grpc.ssl_channel_credentials(authority.cert, known.key, Issued("keda").cert),
    ):
        async with aio.secure_channel(running.grpc, credentials) as channel:
            assert await keda_on(channel).active() is grpc.StatusCode.UNAVAILABLE
