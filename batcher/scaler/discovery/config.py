"""The key `replicas` of a fleet: where its replicas are listed."""

from __future__ import annotations

import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from batcher.config.addresses import Address, TcpAddress, parse_address
from batcher.config.section import AT_LEAST_ONE, CrossCheckError, Section
from batcher.scaler.discovery.looking import MAX_REPLICAS

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_TARGET: Final = re.compile(rf"(?P<name>{_LABEL}(?:\.{_LABEL})*\.?):(?P<port>\d{{1,5}})", re.ASCII)
_OBJECT: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def parse_name(text: str) -> tuple[str, int]:
    """The DNS name and the port of `name:port`. Raises `ValueError`, which says what is allowed."""
    match = _TARGET.fullmatch(text)
    if match is None or len(match["name"].rstrip(".")) > 253:
        raise ValueError("name:port, such as ranker-headless.ml.svc.cluster.local.:8001")
    port = int(match["port"])
    if not 1 <= port <= 65_535:
        raise ValueError("a port from 1 to 65535")
    if match["name"].rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError("a DNS name; addresses belong into static")
    return match["name"], port


def _dns(text: str) -> str:
    parse_name(text)
    return text


DnsName = Annotated[
    str,
    AfterValidator(_dns),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _TARGET.pattern.replace("?P<name>", "?:").replace("?P<port>", "?:"),
            "examples": ["ranker-headless.ml.svc.cluster.local.:8001"],
        }
    ),
]
"""A name and the port that each of its addresses has."""


def _object(text: str) -> str:
    if _OBJECT.fullmatch(text) is None:
        raise ValueError(
            "lower-case letters, digits and '-', at most 63, none of them '-' at an end"
        )
    return text


ObjectName = Annotated[
    str,
    AfterValidator(_object),
    WithJsonSchema({"type": "string", "pattern": f"^{_OBJECT.pattern}$"}),
]
"""What Kubernetes calls a Service, a namespace or a port."""

PortNumber = Annotated[int, Field(strict=True, ge=1, le=65_535)]


def _with_port(addresses: tuple[str, ...]) -> tuple[str, ...]:
    for text in addresses:
        address = parse_address(text)
        if isinstance(address, TcpAddress) and not address.port:
            raise ValueError(f"ports from 1 to 65535; {text} has none")
    if len(addresses) > MAX_REPLICAS:
        raise ValueError(f"at most {MAX_REPLICAS} addresses")
    return addresses


class EndpointSlicesConfig(Section):
    """A Service of Kubernetes whose EndpointSlices list the replicas."""

    service: ObjectName
    """The name of the Service."""
    namespace: ObjectName | None = None
    """Its namespace; null means that of the scaler's own pod."""
    port: ObjectName | PortNumber
    """The port of gRPC: its name in the Service, or its number in the pods."""


class ReplicasConfig(Section):
    """Where the replicas of a fleet are listed: exactly one of these keys."""

    dns: DnsName | None = None
    """A name each of whose addresses is a replica, such as that of a headless Service, and the port
    of gRPC: `ranker-headless.ml.svc.cluster.local.:8001`. With a dot at its end, it is not looked for
    in the search domains of the pod."""
    static: Annotated[tuple[Address, ...], *AT_LEAST_ONE, AfterValidator(_with_port)] | None = None
    """The addresses themselves, one a replica: `host:port` or `unix:/path`."""
    endpoint_slices: EndpointSlicesConfig | None = None
    """The EndpointSlices of a Service, read from Kubernetes with the token of the pod. They also
    tell which replicas are not ready yet."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        keys = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(keys) != 1:
            got = " and ".join(keys) or "none"
            allowed = ", ".join(type(self).model_fields)
            raise CrossCheckError([((), f"got {got}; allowed: exactly one of {allowed}")])
        return self
