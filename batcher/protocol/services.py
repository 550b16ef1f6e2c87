"""gRPC services as tables of methods, and the handlers and stubs that are made from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from batcher.protocol import _pool

INFERENCE = "inference.GRPCInferenceService"
ADMIN = "batcher.admin.v1.Admin"
HEALTH = "grpc.health.v1.Health"
LOAD_REPORTS = "batcher.load.v1.LoadReports"
KEDA = "externalscaler.ExternalScaler"
FLEETS = "batcher.scaler.v1.Fleets"
OPEN_RCA = "xds.service.orca.v3.OpenRcaService"
TORCHSERVE_INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
TORCHSERVE_MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"

MAX_CONTROL_BYTES: Final = 1024 * 1024
"""Bytes of a request that is not inference: protobuf parses it in one go, which holds the event loop."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service. `path` is what a call sends: `/service/method`."""

    name: str
    path: str
    request: type[Message]
    response: type[Message]
    request_streaming: bool
    response_streaming: bool

    @property
    def kind(self) -> str:
        """`unary_unary`, `unary_stream`, `stream_unary` or `stream_stream`, the words of the library `grpc`."""
        asks = "stream" if self.request_streaming else "unary"
        answers = "stream" if self.response_streaming else "unary"
        return f"{asks}_{answers}"


@cache
def methods(service: str) -> Mapping[str, Method]:
    """Every method of the service of that full name, by name. Raises KeyError."""
    return {
        method.name: Method(
            name=method.name,
            path=f"/{service}/{method.name}",
            request=_pool.message_class(method.input_type),
            response=_pool.message_class(method.output_type),
            request_streaming=method.client_streaming,
            response_streaming=method.server_streaming,
        )
        for method in _pool.service_descriptor(service).methods
    }


def handlers(
    service: str,
    implementations: Mapping[str, Callable[..., Any]],
    *,
    raw: Collection[str] = (),
    written: Collection[str] = (),
) -> grpc.GenericRpcHandler:
    """The handler to add to a server, from functions by method name.

    Methods without a function are answered UNIMPLEMENTED. Those named in `raw` take and return
    serialized messages (bytes) instead of messages; those in `written` write their one answer to the
    context instead of returning it, which is the same to the caller. Raises KeyError for a method that the service
    does not have.
    """
    table = methods(service)
    rpcs = {}
    for name, implementation in implementations.items():
        method = table[name]
        kind = "unary_stream" if name in written else method.kind
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        if name in raw:
            rpcs[name] = make(implementation)
        else:
            rpcs[name] = make(
                implementation,
                request_deserializer=partial(_read, method.request),
                response_serializer=method.response.SerializeToString,
            )
    return grpc.method_handlers_generic_handler(service, rpcs)


def _read(request: type[Message], data: bytes) -> Message:
    """Parse a request. The transport reports what is raised here to the caller."""
    if len(data) > MAX_CONTROL_BYTES:
        raise ValueError(f"a request of {len(data)} bytes; at most {MAX_CONTROL_BYTES} are read")
    return request.FromString(data)


class Stub:
    """A service's methods on a channel of `grpc` or `grpc.aio`, as attributes."""

    def __init__(self, channel: Any, service: str) -> None:
        for method in methods(service).values():
            call = getattr(channel, method.kind)(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name!r}")
