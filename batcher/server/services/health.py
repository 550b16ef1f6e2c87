"""The standard gRPC health service, `grpc.health.v1.Health`: Check, List and Watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from batcher import protocol
from batcher.protocol import health
from batcher.runtime.health import HealthReport
from batcher.server.status import shortened

_Status: TypeAlias = health.HealthCheckResponse.ServingStatus
_SERVING = health.HealthCheckResponse.SERVING
_NOT_SERVING = health.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health.HealthCheckResponse.SERVICE_UNKNOWN

SERVER = ""
"""The service name of the server as a whole."""


class HealthService:
    """Whether each service is serving. The server as a whole is not, until `set` or `update` says so.

    Every method is called on the event loop's thread.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, _Status] = {SERVER: _NOT_SERVING}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    def set(self, service: str, serving: bool) -> None:
        """Set whether a service is serving, and notify its watchers of a change.

        No effect after `close`.
        """
        status = _SERVING if serving else _NOT_SERVING
        if not self._closed and self._statuses.get(service) != status:
            self._statuses[service] = status
            self._wake(service)

    def update(self, report: HealthReport) -> None:
        """Set the status of the server, of its inference service, and of each model.

        The service name of a model is `name` (one version of it is ready) or `name/version`. Models that
        are gone become unknown services.
        """
        serving = {model.name: False for model in report.models}
        for model in report.models:
            ready = model.ready and not report.ending
            serving[f"{model.name}/{model.version}"] = ready
            serving[model.name] = serving[model.name] or ready
        serving |= {SERVER: report.ready, protocol.INFERENCE: report.ready}
        for service, ready in serving.items():
            self.set(service, ready)
        if not self._closed:
            for service in self._statuses.keys() - serving.keys():
                del self._statuses[service]
                self._wake(service)

    def close(self) -> None:
        """Set everything to not serving, for good; watchers are notified, and their calls end."""
        for service in self._statuses:
            self.set(service, False)
        self._closed = True
        for watchers in self._watchers.values():
            for wake in watchers:
                wake.set()

    def _wake(self, service: str) -> None:
        for wake in self._watchers.get(service, ()):
            wake.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler to add to a `grpc.aio` server."""
        return protocol.handlers(
            protocol.HEALTH, {"Check": self._check, "List": self._list, "Watch": self._watch}
        )

    async def _check(
        self, request: health.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            message = shortened(f"service {request.service!r} is unknown")
            await context.abort(grpc.StatusCode.NOT_FOUND, message)
        return health.HealthCheckResponse(status=status)

    async def _list(
        self, _request: health.HealthListRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> health.HealthListResponse:
        return health.HealthListResponse(
            statuses={
                service: health.HealthCheckResponse(status=status)
                for service, status in self._statuses.items()
            }
        )

    async def _watch(
        self, request: health.HealthCheckRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health.HealthCheckResponse]:
        wake = asyncio.Event()
        watchers = self._watchers.setdefault(request.service, set())
        watchers.add(wake)
        try:
            sent: _Status | None = None
            while True:
                wake.clear()
                status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
                if status != sent:
                    sent = status
                    yield health.HealthCheckResponse(status=status)
                elif self._closed:
                    return
                else:
                    await wake.wait()
        finally:
            watchers.discard(wake)
            if not watchers and self._watchers.get(request.service) is watchers:
                del self._watchers[request.service]
