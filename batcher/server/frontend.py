"""Everything that speaks gRPC as one object: listeners, services, shutdown."""

from __future__ import annotations

import asyncio

import grpc

from batcher.buffers import Buffers
from batcher.clock import Clock
from batcher.config import ServerConfig
from batcher.lifecycle import ModelManager
from batcher.live_settings import LiveSettings
from batcher.protocol import ADMIN, HEALTH, INFERENCE, LOAD_REPORTS, OPEN_RCA, handlers
from batcher.server.listeners import BuiltinServer, GrpcioServer
from batcher.server.services.control import ControlServicer
from batcher.server.services.flight_record import FlightRecordServicer
from batcher.server.services.health import HealthService
from batcher.server.services.inference import InferenceServicer
from batcher.server.services.load import LoadServicer
from batcher.server.services.load_trailers import LoadTrailers
from batcher.server.services.reflection import reflection_handlers
from batcher.server.services.settings import SettingsServicer
from batcher.server.statistics import transport_points
from batcher.server.tls import Certificates
from batcher.service import Batcher
from batcher.telemetry import TransportPoints
from batcher.telemetry.load import LoadReporter


class GrpcFrontend:
    """Everything that speaks gRPC. `start` first, `stop` last."""

    def __init__(
        self,
        batcher: Batcher,
        manager: ModelManager,
        live_settings: LiveSettings,
        flight: FlightRecordServicer,
        config: ServerConfig,
        clock: Clock,
        buffers: Buffers,
        load: LoadReporter,
    ) -> None:
        self._load = LoadServicer(load, clock, config.status_codes)
        self._buffers = buffers
        self._health = HealthService()
        batcher.health.watch(self._health.update)
        batcher.health.watch(self._load.health_changed)
        trailers = LoadTrailers(load.latest, always=config.load_trailers)
        self._inference = InferenceServicer(batcher, clock, config, buffers, trailers)
        self._settings = SettingsServicer(live_settings, config.status_codes)
        self._flight = flight
        kind = BuiltinServer if config.transport == "builtin" else GrpcioServer
        self.certificates = None if config.tls is None else Certificates(config.tls)
        """Call its `watch` to follow renewed files; None: no TLS."""
        self._servers = [
            kind(
                addresses,
                self._handlers(batcher, manager, config, admin=admin),
                config,
                self.certificates,
                buffers,
                batcher.refused_too_large,
            )
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

    def statistics(self) -> TransportPoints:
        """Counters of connections and streams, and the bytes charged to buffers, for metrics."""
        servers = [each.http2 for each in self._servers if isinstance(each, BuiltinServer)]
        return transport_points(servers, self._buffers)

    async def start(self) -> None:
        """Listen everywhere; not ready yet. Raises `ListenError`."""
        for server in self._servers:
            await server.start()

    def send_goaway(self) -> None:
        """Accept no connection from now on, and send GOAWAY on those that are open."""
        for server in self._servers:
            server.send_goaway()

    async def goaway_acknowledged(self, timeout_s: float) -> None:
        """Wait until clients have acknowledged GOAWAY, for `timeout_s` and a second at most."""
        await asyncio.gather(*(server.goaway_acknowledged(timeout_s) for server in self._servers))

    @property
    def receiving(self) -> int:
        """Calls that were accepted, and whose message has not come as a whole."""
        return sum(server.receiving for server in self._servers)

    async def all_received(self) -> None:
        """Wait until the messages of the calls that were accepted have come."""
        await asyncio.gather(*(server.all_received() for server in self._servers))

    def end_streams(self) -> None:
        """Read no more from open streams; each ends when the requests that it has read are answered."""
        self._inference.end_streams()

    async def streams_ended(self) -> None:
        """Wait until every stream has written its last answer."""
        await self._inference.streams_ended()

    async def stop(self, grace_s: float) -> None:
        """Stop listening, let answers leave for at most `grace_s` seconds, end every call."""
        self._health.close()
        self._load.close()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        self._inference.close()

    def _handlers(
        self, batcher: Batcher, manager: ModelManager, config: ServerConfig, *, admin: bool
    ) -> list[grpc.GenericRpcHandler]:
        control = ControlServicer(batcher, manager, config.status_codes, admin=admin)
        methods = {
            "ModelInfer": self._inference.unary,
            "ModelStreamInfer": self._inference.model_stream_infer,
            **control.methods(),
        }
        written = () if config.transport == "builtin" else ("ModelInfer",)
        served = [
            handlers(INFERENCE, methods, raw=methods, written=written),
            self._health.handler(),
            *self._load.handlers(),
        ]
        services = [INFERENCE, HEALTH, LOAD_REPORTS, OPEN_RCA]
        if admin:
            served.append(handlers(ADMIN, self._settings.methods() | self._flight.methods()))
            services.append(ADMIN)
        return [*served, *reflection_handlers(services)]
