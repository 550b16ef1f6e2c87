import datetime as dt
import logging
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from batcher.cli.main import app


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """`serve` configures the logs of the process, and what pytest captures is closed after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: `run("check", path)`, on a page of 80 columns.

    Not typer's `CliRunner`: its way to tell the two streams apart changed between versions.
    """
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            app([str(part) for part in arguments], prog_name="batcher")
        text = capsys.readouterr()
        return Ended(ended.value.code, text.out, text.err)

    return call


@pytest.fixture
def write(tmp_path):
    """Write a configuration file; returns its path."""

    def call(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return call


@pytest.fixture
def certificate(tmp_path):
    """Write `NAME.pem` and `NAME.key`, a certificate that signs itself and its key."""

    def call(name):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (tmp_path / f"{name}.pem").write_bytes(made.public_bytes(pem))
        (tmp_path / f"{name}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )

    return call
