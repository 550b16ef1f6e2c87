"""The section `server`: listeners, limits and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import model_validator

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


class TlsConfig(Section):
    """Certificates for the TCP listeners of gRPC, PEM files."""

    cert: FilePath
    """The server's certificate chain."""
    key: FilePath
    """Its private key."""
    client_ca: FilePath | None = None
    """When given, clients must show a certificate that one of these authorities signed (mutual
    TLS)."""


class ServerConfig(Section):
    """Where the server listens and how much it takes."""

    grpc: Annotated[tuple[Address, ...], *AT_LEAST_ONE] = ("127.0.0.1:8001",)
    """Data listeners, for inference: `host:port` or `unix:/path`."""
    http: Address | None = "127.0.0.1:8002"
    """The listener of `/metrics` and `/healthz`; null turns it off."""
    admin: tuple[Address, ...] = ()
    """Listeners of the RPCs that change what is served. Loading a model can mean running its code:
    prefer a Unix socket, such as `unix:/run/batcher/admin.sock`."""
    tls: TlsConfig | None = None
    """TLS on the TCP listeners of `grpc` and `admin`; null means plain text. Unix sockets and
    `http` stay plain. Files that were renewed are read again, as often as `config_poll_interval` says."""
    status_codes: Literal["standard", "triton"] = "standard"
    """How refusals are named on the wire: gRPC's usual codes, or Triton's for callers written
    against it."""
    transport: Literal["builtin", "grpcio"] = "builtin"
    """What speaks HTTP/2 on the listeners of `grpc` and `admin`: this server itself, or the library
    `grpcio`, which needs about twice the processor time for a small request."""
    max_message: Size = 64 * 1024**2
    """The largest message taken or sent."""
    max_buffered: Size | None = None
    """Bytes of requests and answers that the process holds at once, of all callers together, at least
    twice `max_message`; null means a quarter of the memory that the process may use."""
    max_connections: Count = 1024
    """Connections open at once on each gRPC listener, beside a few for probes alone (`builtin`).
    Beyond it, the connection that was idle longest is closed for a new one, if it had no call for
    ten seconds (`builtin`)."""
    max_connection_idle: DurationOrNull = 300_000_000_000
    """After this long without a call a client is asked to connect anew; null means never."""
    max_connection_age: Duration | None = None
    """After this long, plus or minus a tenth, a client is asked to connect anew, so that callers
    spread over new servers; null means never."""
    max_connection_age_grace: DurationOrZero = 30_000_000_000
    """How long the calls of such a connection may still take, before they are cut."""
    max_concurrent_streams: Count = 4096
    """Calls open at once on one connection; a client holds further ones back by itself."""
    max_in_flight_per_stream: Count = 1024
    """Requests of one `ModelStreamInfer` call that are being served at once; reading from the
    stream pauses there."""
    receive_timeout: Duration = 20_000_000_000
    """How long headers may take to be complete; a message to begin, to find room in `max_buffered`,
    and to bring its next 1 MiB or its end (`builtin`)."""
    write_timeout: Duration = 30_000_000_000
    """How long a caller may take to read the next 1 MiB of an answer, or its rest. Then the call
    ends, or the connection, if nothing at all is read (`builtin`)."""
    config_poll_interval: DurationOrZero = 1_000_000_000
    """How often the configuration file is looked at, at least 100ms: when it has changed, so do the
    settings that can change while the server runs. 0 never looks: only SIGHUP and an admin call
    have the file read again."""
    drain_delay: DurationOrZero = 5_000_000_000
    """After SIGTERM, how long new requests are still answered while readiness says no: set it to
    what a supervisor needs to send traffic elsewhere. After SIGINT they are refused at once."""
    drain_timeout: DurationOrZero = 30_000_000_000
    """After `drain_delay`, how long accepted requests may take to be answered. 0 ends at once. Keep
    the sum of both below the termination grace period of the supervisor."""

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
            unread = "without max_connection_age nothing reads it; allowed: together with it"
            problems.append((("max_connection_age_grace",), unread))
        if self.transport == "grpcio":
            problems += (
                ((key,), "only transport: builtin has it; allowed: leave it out")
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
            plain = "every listener is a Unix socket, and those stay plain"
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
                problems.append((path, f"got {text} beside {other}; allowed: another port"))
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
