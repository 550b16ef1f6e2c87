"""The section `tracing` and the environment as the exporters read them; secrets stay secret."""

import os

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from batcher.config import TracingConfig, parse_config
from batcher.errors import ConfigError
from batcher.telemetry.tracing import exporters
from batcher.telemetry.tracing.epoch import Epoch
from batcher.telemetry.tracing.exporters import OtlpExporter, headers, resource

SECRET = "a-very-secret-token"


def section(**keys):
    return TracingConfig.model_validate(keys)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def made(monkeypatch):
    """Every exporter of the library that was made, which sends nothing."""
    found = []

    class Exporter:
        def __init__(self, endpoint=None, *files, **arguments):
            self.endpoint, self.files, self.arguments = endpoint, files, arguments
            self.closed = False
            self.result = SpanExportResult.SUCCESS
            found.append(self)

        def export(self, spans):
            return self.result

        def shutdown(self):
            self.closed = True

    monkeypatch.setattr(exporters, "GrpcSpanExporter", Exporter)
    monkeypatch.setattr(exporters, "HttpSpanExporter", Exporter)
    return found


@pytest.fixture
def exporter(made):
    """A function that makes one, which is ended after the test."""
    ends = []

    def make(**keys):
        ends.append(OtlpExporter(section(**keys), iter(range(1, 99)).__next__, Epoch()))
        return ends[-1]

    yield make
    for each in ends:
        each.abort()
        each.close()


def test_the_name_of_the_service(monkeypatch):
    assert resource(section()).attributes["service.name"] == "batcher"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=b,region=c")
    assert resource(section()).attributes["service.name"] == "a"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "d")
    assert resource(section()).attributes["service.name"] == "d"
    ours = resource(section(service_name="e", resource={"team": "f"})).attributes
    assert (ours["service.name"], ours["team"], ours["region"]) == ("e", "f", "c")


def test_the_id_of_the_instance(monkeypatch):
    assert resource(section(), "pod/1").attributes["service.instance.id"] == "pod/1"
    given = section(resource={"service.instance.id": "mine"})
    assert resource(given, "pod/1").attributes["service.instance.id"] == "mine"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=theirs")
    assert resource(section(), "pod/1").attributes["service.instance.id"] == "theirs"


@pytest.mark.parametrize(
    ("protocol", "endpoint", "sent_to"),
    [
        ("grpc", "http://c:4317", "http://c:4317"),
        ("http", "http://c:4318", "http://c:4318/v1/traces"),
        ("http", "https://c/", "https://c/v1/traces"),
        ("http", "https://c/otlp/x", "https://c/otlp/x"),
        ("grpc", None, None),
        ("http", None, None),
    ],
)
def test_where_spans_are_sent(exporter, made, protocol, endpoint, sent_to):
    exporter(protocol=protocol, endpoint=endpoint)
    assert made[0].endpoint == sent_to


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_is_not_written_is_left_to_the_library(exporter, made, protocol):
    exporter(protocol=protocol)
    assert made[0].arguments == {"headers": None, "timeout": None}
    exporter(protocol=protocol, timeout="2s", headers={"authorization": SECRET})
    assert made[1].arguments == {"headers": {"authorization": SECRET}, "timeout": 2.0}


def test_a_header_is_read_again_when_its_file_has_changed(exporter, made, tmp_path, caplog):
    path = tmp_path / "token"
    path.write_text("first\n")
    one = exporter(headers={"authorization": {"file": str(path), "prefix": "Bearer "}})
    assert made[0].arguments["headers"] == {"authorization": "Bearer first"}
    one.export([])
    assert len(made) == 1
    path.write_text("second token\n")
    one.export([])
    assert made[0].closed
    assert made[1].arguments["headers"] == {"authorization": "Bearer second token"}
    path.unlink()
    one.export([])
    one.export([])
    assert len(made) == 2
    assert caplog.text.count("the headers read before are still sent") == 1


def test_an_exporter_that_cannot_be_made_anew_leaves_the_one_before(
    exporter, made, tmp_path, monkeypatch, caplog
):
    path = tmp_path / "token"
    path.write_text("first\n")
    one = exporter(headers={"authorization": {"file": str(path)}})
    make = exporters._exporter

    def fails(*_):
        raise FileNotFoundError("no file ca.pem")

    monkeypatch.setattr(exporters, "_exporter", fails)
    path.write_text("second token\n")
    assert one.export([]) == one.export([]) == (0, "")
    assert not made[0].closed
    assert caplog.text.count("no file ca.pem; the headers read before are still sent") == 1
    monkeypatch.setattr(exporters, "_exporter", make)
    one.export([])
    assert made[0].closed
    assert made[1].arguments["headers"] == {"authorization": "second token"}


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff", b"x" * 70_000])
def test_a_file_that_cannot_be_used(tmp_path, content):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"tracing\.headers\.authorization: .*token"):
        headers(section(headers={"authorization": {"file": str(path)}}))


def test_the_reason_of_a_failure_has_no_secret(exporter, made):
    one = exporter(headers={"authorization": f"Bearer {SECRET}"})
    made[0].result = SpanExportResult.FAILURE
    assert one.export([]) == (0, "the exporter does not say why")

    def refused(spans):
        exporters._LIBRARY.getChild("x").warning("refused: %s is wrong", SECRET)
        return SpanExportResult.FAILURE

    made[0].export = refused
    assert one.export([]) == (0, "refused: *** is wrong")

    def raises(spans):
        raise OSError(f"no {SECRET}")

    made[0].export = raises
    assert one.export([]) == (0, "OSError: no ***")


MODELS = "models: [{name: m, executor: emulated}]\n"


@pytest.mark.parametrize(
    "tracing",
    [
        f"{{headers: {{Authorization: {SECRET}}}}}",
        f'{{headers: {{authorization: "{SECRET}\\n"}}}}',
        f"{{headers: {{authorization: [{SECRET}]}}}}",
        f"{{headers: authorization={SECRET}}}",
        f"{{headers: [{SECRET}]}}",
        f"{{endpoint: 'http://me:{SECRET}@host:4317'}}",
        f"{{sample_ratio: 2, headers: {{authorization: {SECRET}}}}}",
    ],
)
def test_no_message_about_the_section_has_a_secret(tracing):
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{MODELS}tracing: {tracing}\n")
    assert SECRET not in str(caught.value)


def test_no_text_of_the_section_has_a_secret():
    config = parse_config(
        f"{MODELS}tracing: {{headers: {{authorization: '${{TOKEN}}'}}}}\n", "x", {"TOKEN": SECRET}
    )
    assert headers(config.tracing) == {"authorization": SECRET}
    assert SECRET not in f"{config!r} {config} {config.text} {config.tracing.headers}"


def test_a_changed_header_is_a_change():
    from batcher.config import difference

    old, new = (
        parse_config(f"{MODELS}tracing: {{headers: {{authorization: {value}}}}}\n")
        for value in ("one", "two")
    )
    assert difference(old, new).restart == ("tracing.headers.authorization",)


@pytest.mark.parametrize(
    ("tracing", "problem"),
    [
        ("{endpoint: collector:4317}", r"endpoint.*http://host:port"),
        ("{endpoint: 'http://c:99999'}", r"endpoint.*http://host:port"),
        ("{endpoint: 'http://c:1/x'}", r"endpoint.*no path with protocol grpc"),
        ("{endpoint: 'http://c:1?x=1'}", r"endpoint.*a query"),
        ("{endpoint: 'http://c:1', tls: {}}", r"tls.*no effect"),
        ("{tls: {cert: a}}", r"tls\.cert.*no effect without key"),
        ("{tls: {key: a}}", r"tls\.key.*no effect without cert"),
        ("{sample_ratio: 1.5}", r"sample_ratio.*1.0 or less"),
        ("{sample_ratio: -0.1}", r"sample_ratio.*0.0 or more"),
        ("{always: [late, late]}", r"always\[1\].*each once"),
        ("{always: [slow]}", r"always\[0\].*'late', 'failed' or 'refused'"),
        ("{queue_size: 15}", r"queue_size.*16 or more"),
        ("{resource: {service.name: x}}", r"service_name"),
        ("{headers: {grpc-x: a}}", r"headers\.grpc-x"),
        ("{headers: {x-bin: a}}", r"headers\.x-bin"),
        ("{headers: {a: {fil: x}}}", r"headers\.a\.fil.*did you mean file"),
    ],
)
def test_what_the_section_may_not_say(tracing, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_config(f"{MODELS}tracing: {tracing}\n")
