"""Collectors that hang, are gone, or ask for credentials: requests never notice, spans are counted."""

import asyncio
import logging
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batcher.telemetry.families.tracing import RESULTS
from batcher.telemetry.tracing import Tracing

from .conftest import grpc_collector, http_collector

BOUND_S = 20
"""What a test on a slow machine may take; the collectors below hang for longer."""


def counted(application):
    return {
        result: application.registry.get_sample_value(
            "batcher_trace_spans_total", {"result": result}
        )
        for result in RESULTS
    }


async def test_spans_are_counted(traced, collector, hello, dial, request_of, eventually):
    async with traced(collector, hello()) as application:
        assert counted(application) == {"exported": 0, "failed": 0, "dropped": 0}
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
        await eventually(lambda: counted(application)["exported"] == 8)
    assert len(collector.spans) == 8
    assert counted(application) == {"exported": 8, "failed": 0, "dropped": 0}


async def test_a_collector_that_hangs(
    traced, collector, hello, dial, request_of, monkeypatch, eventually, caplog
):
    monkeypatch.setattr(Tracing.close, "__defaults__", (0.01,))
    collector.release.clear()
    async with traced(collector, hello(), queue_size=16, timeout="1h") as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
        await eventually(collector.received.is_set)
        for _ in range(40):
            await stub.ModelInfer(request_of(), timeout=BOUND_S)
        assert application._tracing._sender.waiting == 16
        assert counted(application)["dropped"] > 0
        assert counted(application)["exported"] == 0
        began_s = time.monotonic()
    assert time.monotonic() - began_s < BOUND_S
    assert "has not taken all spans within 0.01 s" in caplog.text
    assert not collector.spans


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_that_is_not_there(
    traced, hello, dial, request_of, protocol, eventually, caplog
):
    caplog.set_level(logging.INFO)
    make = grpc_collector if protocol == "grpc" else http_collector
    with make() as gone:
        pass
    token = "a-very-secret-token"
    section = {"timeout": "100ms", "headers": {"authorization": f"Bearer {token}"}}
    async with traced(gone, hello(), **section) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
        await eventually(lambda: counted(application)["failed"] == 8)
    told = [r for r in caplog.records if "spans cannot be sent" in r.getMessage()]
    assert len(told) == 1
    assert token not in caplog.text
    assert not [r for r in caplog.records if r.name.startswith("opentelemetry")]


async def test_the_headers_are_sent(traced, collector, hello, dial, request_of, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    headers = {
        "authorization": {"file": str(tmp_path / "token"), "prefix": "Bearer "},
        "x-scope-orgid": "us",
    }
    async with traced(collector, hello(), headers=headers) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
    sent = {name.lower(): value for name, value in collector.headers.items()}
    assert sent["authorization"] == "Bearer secret"
    assert sent["x-scope-orgid"] == "us"


async def test_the_environment_says_where(
    traced, collector, hello, dial, request_of, monkeypatch, eventually
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-scope-orgid=eu")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=serving")
    async with traced(collector, hello(), endpoint=None) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
    assert len(collector.spans) == 8
    assert {name.lower(): value for name, value in collector.headers.items()}[
        "x-scope-orgid"
    ] == "eu"
    assert collector.resource["team"] == "serving"
    assert collector.resource["service.name"] == "batcher"


async def test_the_environment_switches_it_off(
    traced, collector_over_grpc, hello, dial, request_of, monkeypatch
):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with traced(collector_over_grpc, hello()) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
        assert set(counted(application).values()) == {None}
    assert not collector_over_grpc.spans


def certificate(tmp_path):
    """The files of a certificate for 127.0.0.1 that signs itself."""
    import datetime as dt
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collector")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "ca.pem").write_bytes(cert)
    return private, cert, str(tmp_path / "ca.pem")


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls(traced, hello, dial, request_of, tmp_path, trusted):
    key, cert, ca = certificate(tmp_path)
    with grpc_collector(grpc.ssl_server_credentials([(key, cert)])) as collector:
        section = {"endpoint": f"https://{collector.address}", "timeout": "2s"}
        if trusted:
            section["tls"] = {"ca": ca}
        async with traced(collector, hello(), **section) as application:
            stub = await dial(application.grpc.addresses[0])
            await stub.ModelInfer(request_of())
        assert len(collector.spans) == (8 if trusted else 0)
        assert counted(application)["failed"] == (0 if trusted else 8)


async def test_the_event_loop_goes_on_while_spans_are_sent(
    traced, collector, hello, dial, request_of, eventually
):
    collector.release.clear()
    async with traced(collector, hello()) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
        await eventually(collector.received.is_set)
        answers = await asyncio.gather(
            *(stub.ModelInfer(request_of(value), timeout=BOUND_S) for value in range(50))
        )
        assert len(answers) == 50
        collector.release.set()
    assert len(collector.requests) == 51


async def test_children_are_traced_and_know_nothing_of_it(
    traced, collector_over_grpc, hello, dial, request_of
):
    collector = collector_over_grpc
    async with traced(collector, hello(isolation="process", base="1ms")) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
    (batch,) = collector.named("batch")
    assert batch.end_time_unix_nano > batch.start_time_unix_nano
    (request,) = collector.requests
    assert len(collector.children(request)) == 6
