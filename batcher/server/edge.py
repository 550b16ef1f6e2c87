"""The gRPC edge as one object: data listeners, admin listeners, health, reflection, drain."""

from __future__ import annotations

import grpc

from batcher.clock import Clock
from batcher.config import ServerConfig
from batcher.protocol import HEALTH, INFERENCE, handlers
from batcher.server.control import ControlEdge
from batcher.server.health import HealthService
from batcher.server.inference import InferenceEdge
from batcher.server.listeners import GrpcServer
from batcher.server.reflection import reflection_handlers
from batcher.service import Batcher

LAST_WRITES_S = 1.0
"""How long answers that are ready may take to leave when the server stops."""


class GrpcEdge:
    """Everything that speaks gRPC. `start`, `set_ready`, `end_streams`, `stop`."""

    def __init__(self, batcher: Batcher, config: ServerConfig, clock: Clock) -> None:
        self._health = HealthService()
        self._health.set("", serving=False)
        self._health.set(INFERENCE, serving=False)
        self._inference = InferenceEdge(
            batcher, clock, config.status_codes, config.max_in_flight_per_stream
        )
        self._servers = [
            GrpcServer(addresses, self._handlers(batcher, config, admin=admin), config)
            for addresses, admin in ((config.grpc, False), (config.admin, True))
            if addresses
        ]
        self._has_admin = bool(config.admin)

    @property
    def addresses(self) -> list[str]:
        """The data listeners, with real ports once started."""
        return self._servers[0].addresses

    @property
    def admin_addresses(self) -> list[str]:
        """The admin listeners, with real ports once started."""
        return self._servers[1].addresses if self._has_admin else []

    async def start(self) -> None:
        """Listen everywhere; not ready yet. Raises `ListenError`."""
        for server in self._servers:
            await server.start()

    def set_ready(self, *, ready: bool) -> None:
        """What health checks are told."""
        self._health.set("", serving=ready)
        self._health.set(INFERENCE, serving=ready)

    def end_streams(self) -> None:
        """Read no more from open streams; each ends when what it took in is answered."""
        self._inference.end_streams()

    async def stop(self) -> None:
        """Stop listening, let answers leave, end every call."""
        self._health.close()
        for server in self._servers:
            await server.stop(LAST_WRITES_S)

    def _handlers(
        self, batcher: Batcher, config: ServerConfig, *, admin: bool
    ) -> list[grpc.GenericRpcHandler]:
        control = ControlEdge(batcher, config.status_codes, admin=admin)
        inference = handlers(
            INFERENCE,
            {
                "ModelInfer": self._inference.model_infer,
                "ModelStreamInfer": self._inference.model_stream_infer,
                **control.methods(),
            },
            raw=("ModelInfer", "ModelStreamInfer"),
        )
        return [inference, self._health.handler(), *reflection_handlers((INFERENCE, HEALTH))]
