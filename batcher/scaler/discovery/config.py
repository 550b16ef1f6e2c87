"""The key `replicas` of a fleet: where its replicas are listed."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from batcher.config.addresses import Address, TcpAddress, parse_address
from batcher.config.section import CrossCheckError, Name, Section


def _dns(text: str) -> str:
    address = parse_address(text)
    if not isinstance(address, TcpAddress) or not address.port:
        raise ValueError("name:port, such as ranker-headless.ml.svc.cluster.local:8001")
    return text


DnsName = Annotated[Address, AfterValidator(_dns)]
"""A name and the port that each of its addresses has."""


class EndpointSlicesConfig(Section):
    """A Service of Kubernetes whose EndpointSlices list the replicas."""

    service: Name
    """The name of the Service."""
    namespace: Name | None = None
    """Its namespace; null means that of the scaler's own pod."""
    port: Name
    """The name of the port of gRPC in the Service."""


class ReplicasConfig(Section):
    """Where the replicas of a fleet are listed: exactly one of these keys."""

    dns: DnsName | None = None
    """A name each of whose addresses is a replica, such as that of a headless Service, and the port
    of gRPC: `ranker-headless.ml.svc.cluster.local:8001`."""
    static: tuple[Address, ...] | None = None
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
