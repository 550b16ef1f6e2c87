"""Certificates of a small authority, made anew for each session."""

import datetime as dt
import ipaddress
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@pytest.fixture(params=("grpcio", "builtin"))
def transport(request):
    """Both: a caller notices no difference."""
    return request.param


LIFETIME = dt.timedelta(days=1)


def name_of(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def issue(name, issuer=None):
    """A certificate and its key as PEM; without an issuer, an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name_of(name))
        .issuer_name(issuer.certificate.subject if issuer else name_of(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer.private if issuer else key, hashes.SHA256())
    )
    return SimpleNamespace(
        certificate=certificate,
        private=key,
        cert=certificate.public_bytes(serialization.Encoding.PEM),
        key=pem(key),
    )


@pytest.fixture(scope="session")
def authority():
    """Signs the server's and the clients' certificates."""
    return issue("authority")


@pytest.fixture(scope="session")
def stranger():
    """An authority that the server does not trust, and a client it has signed."""
    other = issue("stranger")
    return SimpleNamespace(ca=other, client=issue("client of a stranger", other))


@pytest.fixture(scope="session")
def client(authority):
    return issue("client", authority)


@pytest.fixture(scope="session")
def renewed(authority):
    """What the server's certificate is renewed to."""
    return issue("renewed", authority)


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory, authority):
    """The server's files, as the section `tls` names them."""
    server = issue("server", authority)
    folder = tmp_path_factory.mktemp("tls")
    (folder / "server.pem").write_bytes(server.cert)
    (folder / "server.key").write_bytes(server.key)
    (folder / "ca.pem").write_bytes(authority.cert)
    return {
        "cert": str(folder / "server.pem"),
        "key": str(folder / "server.key"),
        "client_ca": str(folder / "ca.pem"),
    }
