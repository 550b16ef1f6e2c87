"""The exporters of OpenTelemetry, as the section `tracing` says. Needs the extra `tracing`.

What the section leaves out, the environment may say: the libraries read `OTEL_EXPORTER_OTLP_*`,
`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. What both say is taken from the section.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from grpc import ssl_channel_credentials
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    Resource,
)
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pydantic import SecretStr

from batcher import __version__
from batcher.clock import SECOND
from batcher.config import HeaderFile, TracingConfig
from batcher.errors import ConfigError, describe
from batcher.telemetry.tracing.encoding import SpanEncoder
from batcher.telemetry.tracing.epoch import Epoch
from batcher.telemetry.tracing.records import Traced

log = logging.getLogger(__name__)

MAX_HEADER_FILE: Final = 64 * 1024
"""The most bytes of a header's file; collectors take far less."""

SHORTEST_SECRET: Final = 8
"""Characters from which on a header's value is kept out of messages; shorter ones are words of theirs as often."""

_LIBRARY: Final = logging.getLogger("opentelemetry")


class OtlpExporter:
    """Encodes records and sends them; makes the exporter anew where a header's file has changed.

    Raises `ConfigError` if a file cannot be used.
    """

    def __init__(
        self,
        config: TracingConfig,
        span_id: Callable[[], int],
        epoch: Epoch,
        instance: str = "",
    ) -> None:
        self._config = config
        self._epoch = epoch
        self._encoder = SpanEncoder(resource(config, instance), span_id)
        self._stamps = _stamps(config)
        self._headers = headers(config)
        self._problem = ""
        """Why the files of headers could not be used again."""
        self._heard = _Heard()
        _LIBRARY.addHandler(self._heard)
        _LIBRARY.propagate = False
        self._exporter = _exporter(config, self._headers)

    def export(self, records: Sequence[Traced]) -> tuple[int, str]:
        """Send the spans; returns their number, and why they could not be sent ("" if they were)."""
        self._refresh()
        spans: Any = self._encoder.encoded(records, self._epoch.refresh())
        self._heard.last = ""
        try:
            done = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - a library may raise anything; it is logged by the caller
            return len(spans), self._hidden(f"{type(error).__name__}: {error}")
        if done:
            return len(spans), ""
        return len(spans), self._hidden(self._heard.last or "the exporter does not say why")

    def abort(self) -> None:
        """Send nothing more: an export that runs is broken off, as far as the library can."""
        self._exporter.shutdown()

    def close(self) -> None:
        """End: what the libraries log is logged again."""
        _LIBRARY.removeHandler(self._heard)
        _LIBRARY.propagate = True

    def _refresh(self) -> None:
        """Use the files of headers as they are now. Where that fails, it is tried again at the next export."""
        stamps = _stamps(self._config)
        if stamps == self._stamps:
            return
        try:
            found = headers(self._config)
            made = _exporter(self._config, found)
        except Exception as error:  # noqa: BLE001 - a library may raise anything
            problem = str(error) if isinstance(error, ConfigError) else describe(error)
            if problem != self._problem:
                log.warning("%s; the headers read before are still sent", self._hidden(problem))
            self._problem = problem
            return
        self._stamps, self._problem = stamps, ""
        self._exporter.shutdown()
        self._headers, self._exporter = found, made

    def _hidden(self, text: str) -> str:
        """The text without the values of headers, which a collector may repeat."""
        for value in self._headers.values():
            for secret in (value, value.rpartition(" ")[2]):
                if len(secret) >= SHORTEST_SECRET:
                    text = text.replace(secret, "***")
        return text


class _Heard(logging.Handler):
    """Keeps the last message of the libraries, which log each failed attempt."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.last = record.getMessage()


def resource(config: TracingConfig, instance: str = "") -> Resource:
    """What the spans say of this server; `instance` names this start of it."""
    # The environment counts for what is not written.
    found = Resource.create(dict(config.resource))
    ours: dict[str, str] = {SERVICE_VERSION: __version__}
    if instance:
        ours[SERVICE_INSTANCE_ID] = instance
    if config.service_name is not None:
        ours[SERVICE_NAME] = config.service_name
    elif str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        ours[SERVICE_NAME] = "batcher"
    for name in (SERVICE_VERSION, SERVICE_INSTANCE_ID):
        if name in config.resource or name in _of_environment():
            ours.pop(name, None)
    return Resource({**found.attributes, **ours}, found.schema_url)


def _of_environment() -> set[str]:
    """The attributes that `OTEL_RESOURCE_ATTRIBUTES` names."""
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {item.partition("=")[0].strip() for item in given.split(",")}


def headers(config: TracingConfig) -> dict[str, str]:
    """The headers of exports. Raises `ConfigError` if a file cannot be used."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, value in config.headers.items():
        try:
            found[name] = _header(value)
        except ValueError as error:
            problems.append(f"tracing.headers.{name}: {error}")
    if problems:
        raise ConfigError(problems)
    return found


def _header(value: SecretStr | HeaderFile) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    try:
        with value.file.open("rb") as file:
            data = file.read(MAX_HEADER_FILE + 1)
    except OSError as error:
        raise ValueError(f"cannot read {value.file}: {error.strerror}") from None
    text = data.decode("ascii", "replace").strip()
    if len(data) > MAX_HEADER_FILE or not text or not (text.isascii() and text.isprintable()):
        raise ValueError(
            f"{value.file} must have one line of printable ASCII characters, at most"
            f" {MAX_HEADER_FILE} bytes"
        )
    return value.prefix + text


def _stamps(config: TracingConfig) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when one of the headers' files does."""
    return tuple(
        _stamp(value.file) for value in config.headers.values() if isinstance(value, HeaderFile)
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _exporter(config: TracingConfig, given: Mapping[str, str]) -> SpanExporter:
    timeout_s = None if config.timeout is None else config.timeout / SECOND
    made = _grpc if config.protocol == "grpc" else _http
    return made(config, dict(given) or None, timeout_s)


def _grpc(
    config: TracingConfig, given: dict[str, str] | None, timeout_s: float | None
) -> SpanExporter:
    make = partial(GrpcSpanExporter, config.endpoint, headers=given, timeout=timeout_s)
    tls = config.tls
    if tls is None:
        return make()
    ca, key, cert = (
        None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.cert)
    )
    return make(insecure=False, credentials=ssl_channel_credentials(ca, key, cert))


def _http(
    config: TracingConfig, given: dict[str, str] | None, timeout_s: float | None
) -> SpanExporter:
    endpoint, tls = config.endpoint, config.tls
    if endpoint is not None and urlsplit(endpoint).path in {"", "/"}:
        endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    ca, key, cert = (
        (None, None, None) if tls is None else (_text(tls.ca), _text(tls.key), _text(tls.cert))
    )
    return HttpSpanExporter(endpoint, ca, key, cert, headers=given, timeout=timeout_s)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
