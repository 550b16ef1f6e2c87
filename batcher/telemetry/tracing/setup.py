"""`Tracing`: all parts of it for one server, as the section `tracing` says."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

from batcher.clock import SECOND
from batcher.config import TracingConfig
from batcher.errors import ConfigError, describe
from batcher.telemetry.collector import Telemetry
from batcher.telemetry.ended import EndedRequest
from batcher.telemetry.parts import TracingPart
from batcher.telemetry.tracing.context import TraceContext
from batcher.telemetry.tracing.epoch import Epoch
from batcher.telemetry.tracing.log_fields import Contexts, unuse, use
from batcher.telemetry.tracing.sampling import Sampler
from batcher.telemetry.tracing.sender import FLUSH_S, Exporter, SpanSender
from batcher.telemetry.tracing.tracer import Tracer

log = logging.getLogger(__name__)

_MODULES: Final = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
)


def missing_packages() -> str | None:
    """What to say if the extra `tracing` is not installed; None if it is."""
    for name in _MODULES:
        try:
            found = find_spec(name) is not None
        except ImportError:  # of a package above it
            found = False
        if not found:
            return (
                f"needs OpenTelemetry, and {name} is not installed; in a checkout:"
                " pip install '.[tracing]'"
            )
    return None


class Tracing:
    """Traces requests of one server, and exports what became of their spans. Call `start` and `close` once.

    Raises `ConfigError` where the packages are not installed, or a file of the section cannot be
    used. `status_of` names the gRPC status code of a reason; `exporter` replaces that of the section,
    `instance` names this start of the server.
    """

    def __init__(
        self,
        config: TracingConfig,
        telemetry: Telemetry,
        status_of: Callable[[str], str],
        exporter: Exporter | None = None,
        instance: str = "",
    ) -> None:
        self._telemetry = telemetry
        self._sampler = Sampler(config.sample_ratio)
        self._epoch = Epoch()
        if exporter is None:
            exporter = self._otlp(config, instance)
        self._sender = SpanSender(exporter, config.queue_size)
        self.tracer = Tracer(
            self._sampler,
            self._sender.put,
            status_of,
            always=config.always,
            kept=self._kept,
        )
        self._contexts = Contexts(self._sampler.context, keeps_failed="failed" in config.always)
        use(self._contexts)
        telemetry.ended.add(self.tracer.ended, self.tracer.wants)
        telemetry.add(TracingPart(self._sender.counts))

    def start(self) -> None:
        """Start the thread that sends spans."""
        self._sender.start()

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Send what waits, for at most `timeout_s` seconds. Blocks; call it when no request is left."""
        unuse(self._contexts)
        self._sender.close(timeout_s)

    def _otlp(self, config: TracingConfig, instance: str) -> Exporter:
        problem = missing_packages()
        if problem is not None:
            raise ConfigError([f"tracing: {problem}"])
        try:
            # It costs 150 ms and needs the extra.
            from batcher.telemetry.tracing.exporters import OtlpExporter  # noqa: PLC0415

            return OtlpExporter(config, self._sampler.span_id, self._epoch, instance)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - the libraries read OTEL_* as they are imported and made
            raise ConfigError(
                [
                    f"tracing: OpenTelemetry refuses it, or what OTEL_* variables say: {describe(error)}"
                ]
            ) from None

    def _kept(self, ended: EndedRequest, context: TraceContext) -> None:
        """A request is traced: its duration is an exemplar."""
        counts = self._telemetry.known(ended.model, ended.version)
        if counts is not None:
            stamps = ended.stamps
            seconds = (stamps.settled_ns + self._epoch.offset_ns) / SECOND
            counts.durations[ended.outcome].exemplify(
                ended.duration_ns, context.trace_id, context.span_id, seconds
            )


def switched_off() -> bool:
    """Whether the environment switches OpenTelemetry off, whatever the configuration says."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
