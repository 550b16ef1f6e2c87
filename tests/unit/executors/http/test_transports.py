"""Unix sockets, TLS, and URLs."""

import datetime as dt
import ssl

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import Batch, LoadContext
from batcher.executors.http import HttpExecutor
from batcher.executors.http.options import place_of

from .conftest import Server, serve_v1

X = np.ones((1, 2), np.float32)


async def answered(options):
    executor = HttpExecutor()
    await executor.load(LoadContext("contract", "1", 0, "cpu", 8, options))
    try:
        return (await executor.execute(Batch({"X": X}, 1))).outputs["Y"].tolist()
    finally:
        await executor.close()


async def test_a_unix_socket(tmp_path):
    server = Server(unix=str(tmp_path / "http.sock"))
    try:
        assert await answered(serve_v1(server)) == [[2, 2]]
    finally:
        server.close()


@pytest.fixture
def certificate(tmp_path):
    """The paths of a certificate for `model.example` that signs itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "model.example")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("model.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


@pytest.fixture
def secure(certificate):
    """A server with TLS that asks for a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*certificate)
    server = Server(tls=context)
    yield server
    server.close()


async def test_tls_verifies_both_sides(secure, certificate):
    cert, key = certificate
    tls = {"ca": cert, "cert": cert, "key": key, "server_name": "model.example"}
    options = serve_v1(secure)
    assert await answered({**options, "tls": tls}) == [[2, 2]]

    for wrong in (
        None,
        {},
        {**tls, "server_name": "other.example"},
        {"ca": cert, "server_name": "model.example"},
    ):
        with pytest.raises(BackendUnavailable, match=r"certificate|disconnected|lost|broke"):
            await answered({**options, "tls": wrong})


async def test_a_file_of_tls_that_is_no_certificate(secure, certificate):
    options = {**serve_v1(secure), "tls": {"ca": certificate[1]}}
    with pytest.raises(ModelLoadError, match=r"options\.tls"):
        await answered(options)


@pytest.mark.parametrize(
    ("url", "base", "unix"),
    [
        ("http://host", "http://host:80", None),
        ("https://host/", "https://host:443", None),
        ("http://[::1]:8080/base/path/", "http://[::1]:8080/base/path", None),
        ("unix:/run/a.sock", "http://localhost", "/run/a.sock"),
    ],
)
def test_the_parts_of_a_url(url, base, unix):
    place = place_of(url)
    assert (place.base, place.unix, place.tls) == (base, unix, url.startswith("https"))


@pytest.mark.parametrize(
    "url",
    [
        "host:80",
        "http://",
        "http://a b",
        "http://u:p@host",
        "http://h/?q=1",
        "http://h/#f",
        "unix:a",
    ],
)
def test_what_is_no_url(url):
    with pytest.raises(ValueError, match=r"host|unix"):
        place_of(url)
