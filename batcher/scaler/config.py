"""The configuration file of `batcher scaler`: listeners, and the fleets that it answers for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, PrivateAttr, model_validator

from batcher.clock import MILLISECOND, SECOND
from batcher.config.addresses import Address
from batcher.config.loader import load_document, parse_document
from batcher.config.schema import finished
from batcher.config.section import (
    AT_LEAST_ONE,
    CrossCheckError,
    FilePath,
    KeyPath,
    Name,
    Section,
    refusal,
)
from batcher.config.server import ServerConfig, TlsConfig
from batcher.config.units import Duration, DurationOrZero, format_duration, format_size
from batcher.scaler.discovery.config import ReplicasConfig

MAX_FLEETS: Final = 64
"""Fleets of one scaler: each has tasks and series of its own. One scaler a namespace needs far fewer."""

MIN_INTERVAL_NS: Final = 100 * MILLISECOND
"""A replica computes its report no more often."""

MAX_AVERAGE_NS: Final = 300 * SECOND
"""The window in which the HPA itself takes the highest value before it shrinks a fleet: a longer mean is of no use to it,
and would hide a step from it for minutes."""

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""Bytes of a message to or from the scaler: thousands of times of what KEDA sends, and what reflection needs."""

MAX_BUFFERED_BYTES: Final = 64 * 1024**2
"""Bytes of requests and answers that are kept for all callers together."""


MAX_CALLS: Final = 1024
"""Open calls on one connection: twice `MAX_STREAMS`, as KEDA has one connection for all its triggers, and its other
calls must find room beside its streams."""


class ListenConfig(Section):
    """Where the scaler listens."""

    grpc: Annotated[tuple[Address, ...], *AT_LEAST_ONE] = ("127.0.0.1:9001",)
    """Listeners for KEDA, and for callers that wake a fleet: `host:port` or `unix:/path`."""
    http: Address | None = "127.0.0.1:9002"
    """The HTTP listener of `/metrics`, `/healthz`, `/readyz` and `/v1/fleets`; null turns it off."""
    tls: TlsConfig | None = None
    """TLS on the TCP listeners of `grpc`; null means plain text. Unix sockets and `http` are never
    encrypted. Renewed files are read again within a second."""

    @model_validator(mode="after")
    def _as_a_server_would(self) -> Self:
        try:
            self.server()
        except ValueError as error:
            # The checks are those of the server's listeners, and so are the messages.
            problems = [
                problem
                for details in getattr(error, "errors", list)()
                for problem in getattr(details.get("ctx", {}).get("error"), "problems", ())
            ]
            raise CrossCheckError(problems) from None
        return self

    def server(self) -> ServerConfig:
        """The same as a section `server`, of which the listeners are made."""
        return ServerConfig.model_validate(
            {
                "grpc": self.grpc,
                "http": self.http,
                "tls": self.tls,
                "max_concurrent_streams": MAX_CALLS,
                "max_message": format_size(MAX_MESSAGE_BYTES),
                "max_buffered": format_size(MAX_BUFFERED_BYTES),
            }
        )


class FleetTlsConfig(Section):
    """TLS to the replicas of a fleet, PEM files. An empty mapping trusts what the system trusts."""

    ca: FilePath | None = None
    """Certificates of the authorities that signed the replicas' (PEM); null means those that the
    system trusts."""
    cert: FilePath | None = None
    """The certificate chain that is presented to the replicas (PEM); null presents none."""
    key: FilePath | None = None
    """The private key of `cert` (PEM, not encrypted)."""
    server_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The name that the replicas' certificates have, where it is not that of their addresses: pods
    are asked by IP address, and certificates have names."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        CrossCheckError.raise_any(
            [
                ((has,), f"no effect without {lacks}; allowed: both or neither")
                for has, lacks in (("cert", "key"), ("key", "cert"))
                if getattr(self, has) is not None and getattr(self, lacks) is None
            ]
        )
        return self


class PollConfig(Section):
    """How the replicas of a fleet are asked."""

    interval: Duration = 1_000_000_000
    """How often each replica is asked for its load report, at least 100ms. A replica that has not
    answered is not asked a second time meanwhile. A report is of five seconds: with more than 5s
    bursts in between are missed."""
    timeout: Duration = 800_000_000
    """How long an answer may take."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.interval < MIN_INTERVAL_NS:
            allowed = (
                f"at least {format_duration(MIN_INTERVAL_NS)}: reports are not computed more often"
            )
            got = refusal(format_duration(self.interval), allowed)
            raise CrossCheckError([(("interval",), got)])
        return self


class FleetConfig(Section):
    """The replicas of one deployment."""

    name: Name
    """What a ScaledObject calls it: `fleet` in the metadata of its trigger."""
    replicas: ReplicasConfig
    """Where its replicas are listed."""
    models: tuple[Name, ...] = ()
    """Models that its replicas serve. If given, a replica that serves none of them is taken for one
    of another fleet, and its report is not believed."""
    tls: FleetTlsConfig | None = None
    """TLS to the replicas; null means plain text. Renewed files are read again within a second."""
    poll: PollConfig = PollConfig()
    """How often they are asked, and how long they may take."""
    keep_last: Duration = 30_000_000_000
    """How long the last believed report of a replica still counts when it does not answer. After
    that the mean of the others counts in its place."""
    average: DurationOrZero = 15_000_000_000
    """Values are means over time of what each replica reported in the last so long, from `poll.interval`
    to 5m: the HPA looks once in 15 s, and would miss what came in between. 0 takes the last report
    alone."""
    idle_after: Duration = 300_000_000_000
    """The fleet is idle, and so may be scaled to zero, when nothing was asked of any replica for this
    long. KEDA's `cooldownPeriod` comes after it."""
    wake_for: DurationOrZero = 300_000_000_000
    """How long a fleet is active after it was woken; longer than a replica takes to start. 0 turns
    waking off."""
    wake_token: FilePath | None = None
    """A file with the token that callers must present to wake the fleet: `authorization: Bearer
    TOKEN`, in the header or the gRPC metadata. It is read again when it has changed. null lets every
    caller that reaches a listener wake it."""

    @model_validator(mode="after")
    def _averages_more_than_one(self) -> Self:
        least, most = self.poll.interval, MAX_AVERAGE_NS
        if self.average and not least <= self.average <= most:
            allowed = "0 for the last report alone"
            if least <= most:
                bounds = f"{format_duration(least)} (poll.interval) to {format_duration(most)}"
                allowed += f", or {bounds}"
            got = refusal(format_duration(self.average), allowed)
            raise CrossCheckError([(("average",), got)])
        return self


@dataclass(frozen=True, slots=True)
class _Source:
    """The text of a configuration. It does not count when configurations are compared."""

    text: str = field(default="", compare=False)


class ScalerConfig(Section):
    """A configuration file of `batcher scaler`: validated as a whole, then frozen."""

    listen: ListenConfig = ListenConfig()
    """Listeners and their certificates."""
    fleets: Annotated[tuple[FleetConfig, ...], *AT_LEAST_ONE]
    """The fleets that it answers for."""

    _source: _Source = PrivateAttr(default_factory=_Source)

    @property
    def text(self) -> str:
        """The text of the file, with its references to the environment unexpanded."""
        return self._source.text

    def model_post_init(self, context: Any, /) -> None:
        """Keep the text that the loader passes along."""
        if context:
            self._source = _Source(context.get("text", ""))

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        if len(self.fleets) > MAX_FLEETS:
            got = f"got {len(self.fleets)} fleets; allowed: at most {MAX_FLEETS}"
            problems.append((("fleets",), got))
        seen: set[str] = set()
        for place, fleet in enumerate(self.fleets):
            if fleet.name in seen:
                again = f"got {fleet.name} a second time; allowed: another name"
                problems.append((("fleets", place, "name"), again))
            seen.add(fleet.name)
        CrossCheckError.raise_any(problems)
        return self


def load_scaler_config(path: str | Path) -> ScalerConfig:
    """Read and validate the file. Relative paths in it start at its folder.

    Raises ConfigError with every problem found.
    """
    return load_document(path, ScalerConfig)


def parse_scaler_config(text: str, source: str = "<text>") -> ScalerConfig:
    """Validate a YAML text. Raises ConfigError with every problem found."""
    return parse_document(text, ScalerConfig, source)


def scaler_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    return finished(
        ScalerConfig.model_json_schema(mode="serialization"), "batcher scaler configuration"
    )
