"""The section `server`: listeners, limits and shutdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from batcher.config.addresses import Address, TcpAddress, UnixAddress, parse_address
from batcher.config.section import (
    AT_LEAST_ONE,
    Count,
    CrossCheckError,
    FilePath,
    KeyPath,
    Section,
    refusal,
)
from batcher.config.units import (
    Duration,
    DurationOrNull,
    DurationOrZero,
    Size,
    format_duration,
    format_size,
)

_IPV4: Final = "0.0.0.0"  # noqa: S104 - what the file may say
_INT32_MAX = (1 << 31) - 1
_SHORTEST_WATCH_NS = 100_000_000
MAX_REPLICA: Final = 253
"""Characters of the name of a replica: the longest that DNS, and so Kubernetes, allows."""


class TlsConfig(Section):
    """Certificates for the TCP listeners of gRPC, PEM files."""

    cert: FilePath
    """The server's certificate chain (PEM)."""
    key: FilePath
    """The private key of `cert` (PEM, not encrypted)."""
    client_ca: FilePath | None = None
    """Certificates of authorities (PEM). If given, clients must present a certificate that one of
    them signed (mutual TLS)."""


class ServerConfig(Section):
    """Where the server listens and how much it takes."""

    grpc: Annotated[tuple[Address, ...], *AT_LEAST_ONE] = ("127.0.0.1:8001",)
    """Listeners for inference: `host:port` or `unix:/path`."""
    http: Address | None = "127.0.0.1:8002"
    """The HTTP listener of the live view (`/`), `/metrics`, `/v1/load`, `/healthz` and `/readyz`; null
    turns it off."""
    admin: tuple[Address, ...] = ()
    """Listeners for RPCs that load and unload models and change settings. Loading a model can mean
    running its code: prefer a Unix socket, such as `unix:/run/batcher/admin.sock`."""
    replica: Annotated[str, Field(min_length=1, max_length=MAX_REPLICA)] | None = None
    """The name of this replica in [load reports](load-report.md). null means the environment variable
    POD_NAME or HOSTNAME, or the name of the host."""
    load_trailers: bool = False
    """Whether every inference call ends with an [ORCA load report](load-report.md#orca) in its trailing
    metadata. false means only calls that ask for it."""
    tls: TlsConfig | None = None
    """TLS on the TCP listeners of `grpc` and `admin`; null means plain text. Unix sockets and
    `http` are never encrypted. Renewed files are read again, as often as `config_poll_interval`
    says."""
    status_codes: Literal["standard", "triton"] = "standard"
    """The gRPC status codes of refusals: `standard` uses the codes of gRPC's documentation; `triton`
    uses Triton's codes and texts, for clients written against it."""
    transport: Literal["builtin", "grpcio"] = "builtin"
    """The HTTP/2 implementation behind `grpc` and `admin`: the server's own (`builtin`), or that of
    the library `grpcio`, which needs about twice the processor time for a small request."""
    max_message: Size = 64 * 1024**2
    """The largest gRPC message that is received or sent. Larger requests are refused."""
    max_buffered: Size | None = None
    """The most bytes of requests and answers in memory, of all callers together; at least twice
    `max_message`. Beyond it requests are refused with a hint when to retry. null means a quarter of
    the memory that the process may use, or twice `max_message` if that is more."""
    max_connections: Count = 1024
    """The most open connections of each gRPC listener. A few more are kept for health probes
    (`builtin`). At the limit, the connection that has been idle longest is closed for a new one, if
    it had no call for ten seconds (`builtin`)."""
    max_connection_idle: DurationOrNull = 300_000_000_000
    """A connection without a call for this long is closed with GOAWAY; clients connect again when
    they need to. null means never."""
    max_connection_age: Duration | None = None
    """A connection of this age, plus or minus 10 %, is closed with GOAWAY, so that clients connect
    again and spread over new servers. null means never."""
    max_connection_age_grace: DurationOrZero = 30_000_000_000
    """How long calls that are open on such a connection may still take before they are aborted."""
    max_concurrent_streams: Count = 4096
    """The most open calls on one connection; the client's gRPC library makes further calls wait."""
    max_in_flight_per_stream: Count = 1024
    """The most requests of one `ModelStreamInfer` call that are served at once. At the limit the
    server stops reading from the stream."""
    receive_timeout: Duration = 20_000_000_000
    """How long a client may take to send the headers of a call, to begin a message, and to send
    each 1 MiB of it (`builtin`). A message that waits that long for space in `max_buffered` is
    refused."""
    write_timeout: Duration = 30_000_000_000
    """How long a client may take to read each 1 MiB of an answer. Then the call ends, or the
    connection if nothing at all is read (`builtin`)."""
    config_poll_interval: DurationOrZero = 1_000_000_000
    """How often the server checks whether the configuration file has changed, at least 100ms.
    Settings that can change at run time are then applied. 0 turns that off: the file is read again
    only after SIGHUP or an admin call."""
    drain_delay: DurationOrZero = 5_000_000_000
    """After SIGTERM: how long new requests are still served while the server already reports that
    it is not ready. Set it to what a load balancer needs to send traffic elsewhere. After SIGINT
    new requests are refused at once."""
    drain_timeout: DurationOrZero = 30_000_000_000
    """After `drain_delay`: how long accepted requests may take to be answered; 0 ends at once. The
    sum of both must be below the termination grace period of the supervisor (Kubernetes: 30 s by
    default)."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        named: list[tuple[KeyPath, str]] = [
            *((("grpc", place), text) for place, text in enumerate(self.grpc)),
            *([(("http",), self.http)] if self.http else []),
            *((("admin", place), text) for place, text in enumerate(self.admin)),
        ]
        if self.max_message > _INT32_MAX:
            allowed = (
                f"at most {format_size(_INT32_MAX)} (gRPC counts a message's bytes in 31 bits)"
            )
            problems.append((("max_message",), refusal(format_size(self.max_message), allowed)))
        if self.max_buffered is not None and self.max_buffered < 2 * self.max_message:
            allowed = f"at least {format_size(2 * self.max_message)}, twice max_message"
            problems.append((("max_buffered",), refusal(format_size(self.max_buffered), allowed)))
        grace = type(self).model_fields["max_connection_age_grace"].default
        if self.max_connection_age is None and self.max_connection_age_grace != grace:
            unread = "no effect without max_connection_age; allowed: together with it"
            problems.append((("max_connection_age_grace",), unread))
        if self.transport == "grpcio":
            problems += (
                ((key,), "no effect with transport: grpcio; allowed: leave it out")
                for key in ("receive_timeout", "write_timeout")
                if getattr(self, key) != type(self).model_fields[key].default
            )
        if 0 < self.config_poll_interval < _SHORTEST_WATCH_NS:
            allowed = f"at least {format_duration(_SHORTEST_WATCH_NS)}, or 0"
            problems.append(
                (
                    ("config_poll_interval",),
                    refusal(format_duration(self.config_poll_interval), allowed),
                )
            )
        listeners = [*self.grpc, *self.admin]
        if self.tls and not any(isinstance(parse_address(a), TcpAddress) for a in listeners):
            plain = "no effect: every listener is a Unix socket, and those are not encrypted"
            problems.append((("tls",), f"{plain}; allowed: together with a host:port"))
        seen: dict[TcpAddress | UnixAddress, str] = {}
        for path, text in named:
            address = parse_address(text)
            if isinstance(address, TcpAddress) and address.port == 0:
                continue  # each asks the kernel for another port
            if address in seen:
                problems.append(
                    (path, f"got {text} a second time; allowed: one listener an address")
                )
            elif (other := _covers(seen, address)) is not None:
                problems.append(
                    (path, f"got {text}, which overlaps with {other}; allowed: another port")
                )
            seen[address] = text
        CrossCheckError.raise_any(problems)
        return self


def _covers(
    seen: Mapping[TcpAddress | UnixAddress, str], address: TcpAddress | UnixAddress
) -> str | None:
    """The listener on the same port, where it or this one takes every address of the machine."""
    for known, text in seen.items():
        if not (isinstance(known, TcpAddress) and isinstance(address, TcpAddress)):
            continue
        hosts = {known.host, address.host}
        # `::` takes addresses of both kinds, 0.0.0.0 those without colons.
        taken = "::" in hosts or (_IPV4 in hosts and not any(":" in host for host in hosts))
        if taken and known.port == address.port:
            return text
    return None
