"""Certificates, a scaler in this process, and replicas that present what a test gives them."""

import datetime as dt
import ipaddress
import json
from contextlib import AsyncExitStack
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batcher import protocol
from batcher.scaler import app
from batcher.scaler.config import parse_scaler_config
from batcher.testing.replica import FakeReplica

REF = protocol.keda.ScaledObjectRef(
    name="ranker", namespace="ml", scalerMetadata={"fleet": "ranker", "target": "0.8"}
)
METRIC = protocol.keda.GetMetricsRequest(scaledObjectRef=REF, metricName="desired_ratio")


def named(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(name, issuer=None, *, host="127.0.0.1", days=(-1, 1)):
    """A certificate and its key as PEM, valid from and until so many days from now; without an issuer, an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(name) if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(key if issuer is None else issuer.private, hashes.SHA256())
    )
    return SimpleNamespace(
        certificate=made,
        private=key,
        cert=made.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@pytest.fixture(scope="session")
def issued():
    """The function `issue`."""
    return issue


@pytest.fixture(scope="session")
def authority():
    return issue("authority")


@pytest.fixture(scope="session")
def stranger():
    """Another authority."""
    return issue("stranger")


@pytest.fixture(scope="session")
def expired(authority):
    return issue("expired", authority, days=(-2, -1))


@pytest.fixture
def files(tmp_path):
    """A function that writes PEM files and returns their paths: `files(cert=..., key=..., ca=...)`."""

    def write(**pems):
        paths = {}
        for name, pem in pems.items():
            path = tmp_path / f"{name}.pem"
            fresh = tmp_path / f"{name}.new"
            fresh.write_bytes(pem)
            # As Kubernetes renews them: a reader has the old one or the new one.
            fresh.replace(path)
            paths[name] = str(path)
        return paths

    return write


@pytest.fixture
def quick(monkeypatch):
    """Files that have changed are read at once."""
    monkeypatch.setattr(app, "CERTIFICATES_S", 0.02)


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def scaler(stack):
    """A function that starts a scaler of one fleet, whose replicas are listed."""

    async def start(*replicas, listen=None, **fleet):
        document = {
            "listen": {"grpc": ["127.0.0.1:0"], "http": None, **(listen or {})},
            "fleets": [
                {
                    "name": "ranker",
                    "replicas": {"static": [each.address for each in replicas]},
                    "poll": {"interval": "100ms", "timeout": "20s"},
                    **fleet,
                }
            ],
        }
        config = parse_scaler_config(json.dumps(document), "test")
        return await stack.enter_async_context(app.running_scaler(config))

    return start


@pytest.fixture
def replica(stack):
    """A function that starts a replica, with a certificate or without, which may ask for those of clients."""

    async def start(pair=None, client_ca=None, **more):
        credentials = None
        if pair is not None:
            credentials = grpc.ssl_server_credentials(
                [(pair.key, pair.cert)],
                None if client_ca is None else client_ca.cert,
                client_ca is not None,
            )
        made = await FakeReplica(credentials=credentials, **more).start()
        stack.push_async_callback(made.stop)
        return made

    return start


@pytest.fixture
def ref():
    return REF


@pytest.fixture
def metric():
    return METRIC
