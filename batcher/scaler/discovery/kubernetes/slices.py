"""The EndpointSlices of one service, and the endpoints that they say together. No I/O.

A slice has up to a thousand endpoints of one kind of address. A service has one slice or more for each
family of addresses, and an endpoint may be in two slices while it is moved. Kubernetes keeps one slice without endpoints for
a service that has none: no slice at all means that there is no such service.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from batcher.errors import on_one_line, shown
from batcher.scaler.discovery.interface import Endpoint
from batcher.scaler.discovery.looking import MAX_REPLICAS, DiscoveryError, too_many

MAX_SLICES: Final = 200
"""The most slices of a service that are read: 1000 replicas fill 10 for each family of addresses, and slices
that are not full are merged."""

Port: TypeAlias = int | str
"""A port's number, or its name in the service."""


class GoneError(DiscoveryError):
    """The server no longer has the changes since a version: everything has to be listed again."""


class _Object(BaseModel):
    """A part of an object of Kubernetes. Fields that are not read are let go; an empty list may be null."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)


_FOREIGN_NAME = Annotated[str, Field(max_length=253)]
_VERSION = Annotated[str, Field(min_length=1, max_length=128)]


class _Conditions(_Object):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Reference(_Object):
    kind: _FOREIGN_NAME = ""
    name: _FOREIGN_NAME = ""
    uid: _FOREIGN_NAME = ""


class _Endpoint(_Object):
    addresses: Annotated[list[_FOREIGN_NAME], Field(min_length=1, max_length=100, fail_fast=True)]
    conditions: _Conditions = _Conditions()
    target_ref: _Reference | None = None


class _Port(_Object):
    name: _FOREIGN_NAME | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None


class _Metadata(_Object):
    name: _FOREIGN_NAME
    resource_version: _VERSION


class _Slice(_Object):
    metadata: _Metadata
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: Annotated[list[_Endpoint], Field(max_length=MAX_REPLICAS, fail_fast=True)] | None = (
        None
    )
    ports: Annotated[list[_Port], Field(max_length=100, fail_fast=True)] | None = None


class _ListMetadata(_Object):
    resource_version: _VERSION
    continue_: Annotated[str, Field(alias="continue")] = ""


class _List(_Object):
    kind: Literal["EndpointSliceList"]
    metadata: _ListMetadata
    items: Annotated[list[_Slice], Field(max_length=MAX_SLICES, fail_fast=True)] | None = None


class _BookmarkMetadata(_Object):
    resource_version: _VERSION


class _Bookmark(_Object):
    metadata: _BookmarkMetadata


class _Status(_Object):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Changed(_Object):
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: _Slice


class _Marked(_Object):
    type: Literal["BOOKMARK"]
    object: _Bookmark


class _Refused(_Object):
    type: Literal["ERROR"]
    object: _Status


_EVENT: Final[TypeAdapter[_Changed | _Marked | _Refused]] = TypeAdapter(
    Annotated[_Changed | _Marked | _Refused, Field(discriminator="type")]
)


class Slices:
    """The slices of a service, as they were listed and have changed since."""

    def __init__(self, service: str, namespace: str, port: Port) -> None:
        self._service = service
        self._namespace = namespace
        self._port = port
        self._slices: dict[str, _Slice] = {}
        self.version = ""
        """Up to which version changes are known."""

    def listed(self, body: bytes) -> None:
        """Take all slices from a list. Raises `DiscoveryError` where it is none, and changes nothing."""
        try:
            found = _List.model_validate_json(body)
        except ValidationError as error:
            raise _not_understood("list of EndpointSlices", error) from None
        if found.metadata.continue_:
            raise DiscoveryError(
                f"service {shown(self._service)} has more than {MAX_SLICES} EndpointSlices"
            )
        self._slices = {each.metadata.name: each for each in found.items or ()}
        self.version = found.metadata.resource_version

    def changed(self, line: bytes) -> None:
        """Take one event of a watch.

        Raises `GoneError`, and `DiscoveryError` where it is no event. Then list again.
        """
        try:
            event = _EVENT.validate_json(line)
        except ValidationError as error:
            raise _not_understood("change of EndpointSlices", error) from None
        match event:
            case _Refused(object=status):
                said = on_one_line(f"{status.code} {status.reason}: {status.message}")
                if status.code == 410:
                    raise GoneError(f"the API server has forgotten what changed since ({said})")
                raise DiscoveryError(f"the API server ended the watch: {said}")
            case _Marked(object=mark):
                self.version = mark.metadata.resource_version
            case _Changed(type="DELETED", object=gone):
                self._slices.pop(gone.metadata.name, None)
                self.version = gone.metadata.resource_version
            case _Changed(object=new):
                if len(self._slices) >= MAX_SLICES and new.metadata.name not in self._slices:
                    raise DiscoveryError(
                        f"service {shown(self._service)} has more than {MAX_SLICES} EndpointSlices"
                    )
                self._slices[new.metadata.name] = new
                self.version = new.metadata.resource_version

    def endpoints(self) -> list[Endpoint]:
        """All endpoints, each once. Raises `DiscoveryError` where they are not known."""
        if not self._slices:
            raise DiscoveryError(
                f"there is no EndpointSlice of a service {shown(self._service)} in the namespace"
                f" {shown(self._namespace)}: a service without endpoints has one; create it, or correct"
                " the names"
            )
        merged: dict[str, Endpoint] = {}
        for key, endpoint in self._each():
            before = merged.get(key)
            # While it is moved from one slice to another, the newer one may be either.
            if before is None or (endpoint.ready and before.address == endpoint.address):
                merged[key] = endpoint
            if len(merged) > MAX_REPLICAS:
                raise too_many()
        return list(merged.values())

    def _each(self) -> Iterator[tuple[str, Endpoint]]:
        # Of a pod in two families the first address counts: IPv4, IPv6, FQDN.
        families: set[str] = set()
        parts = [part for part in self._slices.values() if part.endpoints]
        with_port = [(part, port) for part in parts if (port := self._port_of(part))]
        if parts and not with_port:
            names = {shown(port.name or "") for part in parts for port in (part.ports or ())[:10]}
            raise DiscoveryError(
                f"service {shown(self._service)} has no port named {self._port!r}; its ports:"
                f" {', '.join(sorted(names)[:10]) or 'none'}"
            )
        for part, port in sorted(with_port, key=lambda each: _ORDER[each[0].address_type]):
            for each in part.endpoints or ():
                pod = each.target_ref
                if pod is None or not (pod.uid or pod.name):
                    # Nothing says which of them are the same in two families: those of one are taken.
                    if families - {part.address_type}:
                        continue
                    families.add(part.address_type)
                address = _address(part, each.addresses[0], port)
                name = "" if pod is None else pod.name
                key = address if pod is None else pod.uid or pod.name or address
                yield key, Endpoint(address, _ready(each.conditions), name)

    def _port_of(self, part: _Slice) -> int | None:
        """None where its pods have no such port."""
        if isinstance(self._port, int):
            return self._port
        return next(
            (each.port for each in part.ports or () if (each.name or "") == self._port), None
        )


_ORDER: Final = {"IPv4": 0, "IPv6": 1, "FQDN": 2}
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)


def _address(part: _Slice, address: str, port: int) -> str:
    try:
        if part.address_type == "IPv4":
            return f"{ipaddress.IPv4Address(address)}:{port}"
        if part.address_type == "IPv6":
            # No zone: it means another interface on this machine.
            return f"[{ipaddress.IPv6Address(address.partition('%')[0])}]:{port}"
    except ValueError:
        pass
    else:
        host = address.removesuffix(".")
        if _HOST.fullmatch(host):
            return f"{host}:{port}"
    raise DiscoveryError(
        f"EndpointSlice {shown(part.metadata.name)} has {shown(address)}, which is no {part.address_type} address"
    )


def _ready(said: _Conditions) -> bool:
    """Whether it takes requests; true where nothing is said.

    `ready` itself is always true in a service that publishes addresses of pods that are not; `serving` is not.
    """
    ready = said.ready if said.serving is None else said.serving
    return ready is not False and said.terminating is not True


def _not_understood(what: str, error: ValidationError) -> DiscoveryError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    said = on_one_line(f"{where}: {first['msg']}")
    return DiscoveryError(f"the API server's answer is no {what}: {said}")
