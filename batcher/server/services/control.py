"""RPCs about the server and its models: health, metadata, configuration, statistics, load, unload.

Loading and unloading works on admin listeners only; a data listener refuses it and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError, Message

from batcher import __version__
from batcher.core.settings import FixedWindow
from batcher.errors import (
    Draining,
    InvalidRequest,
    NotPermitted,
    NotSupported,
    UnknownModel,
)
from batcher.lifecycle import ModelManager
from batcher.protocol import INFERENCE, MAX_CONTROL_BYTES, inference, methods
from batcher.runtime.health import ModelState
from batcher.server.calls import Context, answered
from batcher.server.messages.describe import (
    Batching,
    model_config_response,
    model_metadata_response,
    statistics_response,
)
from batcher.server.messages.repository import load_parameters
from batcher.server.status import Style, shortened
from batcher.service import Batcher

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
)
"""Extensions of the protocol that this server has, by the names that clients look for."""

ADMIN_EXTENSIONS = (*EXTENSIONS, "model_repository")

_SHARED_MEMORY_CALLS = ("Status", "Register", "Unregister")
_IN_THE_MESSAGE = "send tensors in the request message"

NOT_SUPPORTED = {
    **dict.fromkeys(
        (f"SystemSharedMemory{verb}" for verb in _SHARED_MEMORY_CALLS), _IN_THE_MESSAGE
    ),
    **dict.fromkeys((f"CudaSharedMemory{verb}" for verb in _SHARED_MEMORY_CALLS), _IN_THE_MESSAGE),
    "TraceSetting": "configure `journal` or `flight_recorder` to record requests",
    "LogSettings": "restart with `batcher serve --log-level`",
}
"""RPCs of the protocol that are not supported, and what to do instead."""

INDEX_STATES = {
    ModelState.READY: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNREADY: "UNAVAILABLE",
    ModelState.FAILED: "UNAVAILABLE",
    ModelState.UNLOADED: "UNAVAILABLE",
}


class ControlServicer:
    """Answers all RPCs but inference, for one kind of listener."""

    def __init__(
        self, batcher: Batcher, manager: ModelManager, style: Style, *, admin: bool
    ) -> None:
        self._batcher = batcher
        self._manager = manager
        self._style = style
        self._admin = admin

    def methods(self) -> dict[str, Callable[[bytes, Context], Awaitable[bytes]]]:
        """Method name -> handler, which takes and returns serialized messages."""
        answers: dict[str, Callable[[Any], Awaitable[Message]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        for name, why in NOT_SUPPORTED.items():
            answers[name] = partial(_not_supported, name, why)
        return {name: self._guarded(name, method) for name, method in answers.items()}

    def _guarded(
        self, name: str, method: Callable[[Any], Awaitable[Message]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        request_type = methods(INFERENCE)[name].request

        async def made(data: bytes) -> bytes:
            if name == "RepositoryModelLoad" and self._admin and len(data) > MAX_CONTROL_BYTES:
                # It may hold files; the transport bounds it (server.max_message).
                request = await asyncio.to_thread(_parsed, request_type, data)
            else:
                request = _parse(request_type, data)
            response = await method(request)
            return response.SerializeToString()

        async def answer(data: bytes, context: Context) -> bytes:
            return await answered(made(data), context, self._style)

        return answer

    async def _server_live(self, _: object) -> inference.ServerLiveResponse:
        return inference.ServerLiveResponse(live=self._batcher.health.report().live)

    async def _server_ready(self, _: object) -> inference.ServerReadyResponse:
        return inference.ServerReadyResponse(ready=self._batcher.health.report().ready)

    async def _model_ready(
        self, request: inference.ModelReadyRequest
    ) -> inference.ModelReadyResponse:
        try:
            model = self._batcher.models.find(request.name, request.version)
        except UnknownModel:
            return inference.ModelReadyResponse(ready=False)
        return inference.ModelReadyResponse(ready=model.ready and not self._batcher.health.ending)

    async def _server_metadata(self, _: object) -> inference.ServerMetadataResponse:
        extensions = ADMIN_EXTENSIONS if self._admin else EXTENSIONS
        return inference.ServerMetadataResponse(
            name="triton" if self._style == "triton" else "batcher",
            version=__version__,
            extensions=extensions,
        )

    async def _model_metadata(
        self, request: inference.ModelMetadataRequest
    ) -> inference.ModelMetadataResponse:
        model = self._batcher.models.find(request.name, request.version)
        versions = self._batcher.models.versions(model.name)
        return model_metadata_response(model.name, versions, model.client_metadata)

    async def _model_config(
        self, request: inference.ModelConfigRequest
    ) -> inference.ModelConfigResponse:
        model = self._batcher.models.find(request.name, request.version)
        settings = model.settings
        batching: Batching | None = None
        if isinstance(settings.policy, FixedWindow):
            batching = Batching(
                preferred_sizes=settings.policy.preferred_sizes,
                max_delay_ns=settings.policy.max_delay_ns,
                queue_timeout_ns=settings.queue.timeout_ns,
                max_queue_requests=settings.queue.max_requests,
                priority_levels=settings.queue.priority_levels,
                default_priority=settings.queue.default_priority,
                allow_timeout_override=settings.queue.allow_timeout_override,
            )
        return model_config_response(
            model.name,
            model.version,
            model.client_metadata,
            max_batch_size=model.max_batch_size,
            batching=batching if model.max_batch_size else None,
            executor=model.executor,
            instances=model.instance_count,
            device=model.device,
            labels={name: labels.file for name, labels in model.labels.items()},
            sequences=model.sequences,
            batch_sizes=settings.batch_sizes,
        )

    async def _model_statistics(
        self, request: inference.ModelStatisticsRequest
    ) -> inference.ModelStatisticsResponse:
        models = self._batcher.models
        if not request.name:
            asked = [m for m in models if m.state is ModelState.READY]
        elif request.version:
            asked = [models.find(request.name, request.version)]
        else:
            asked = [models.find(request.name, v) for v in models.versions(request.name)]
        return statistics_response((m.name, m.version, m.telemetry.statistics()) for m in asked)

    async def _repository_index(
        self, request: inference.RepositoryIndexRequest
    ) -> inference.RepositoryIndexResponse:
        response = inference.RepositoryIndexResponse()
        for model in self._batcher.health.report().models:
            if model.ready or not request.ready:
                response.models.add(
                    name=model.name,
                    version=model.version,
                    state=INDEX_STATES[model.state],
                    reason=shortened(model.reason),
                )
        for known in () if request.ready else self._manager.known():
            response.models.add(
                name=known.name,
                version=known.version,
                # Nothing is wrong with a model that no call has loaded yet.
                state="UNAVAILABLE" if known.reason else "",
                reason=shortened(known.reason),
            )
        return response

    async def _load(
        self, request: inference.RepositoryModelLoadRequest
    ) -> inference.RepositoryModelLoadResponse:
        self._check_allowed()
        await self._manager.load(request.model_name, load_parameters(request))
        return inference.RepositoryModelLoadResponse()

    async def _unload(
        self, request: inference.RepositoryModelUnloadRequest
    ) -> inference.RepositoryModelUnloadResponse:
        self._check_allowed()
        # No model depends on another, so both values of this one mean the same.
        unknown = set(request.parameters) - {"unload_dependents"}
        if unknown:
            raise NotSupported(
                f"{request.model_name}: parameters of an unload: got"
                f" {shortened(', '.join(sorted(unknown)))}; allowed: unload_dependents"
            )
        await self._manager.unload(request.model_name)
        return inference.RepositoryModelUnloadResponse()

    def _check_allowed(self) -> None:
        if not self._admin:
            raise NotPermitted(
                "loading and unloading models is not permitted on this listener; call an address of"
                " server.admin in the configuration file instead"
            )
        if self._batcher.draining:
            raise Draining("the server is shutting down; models cannot be changed any more")


async def _not_supported(name: str, why: str, _: object) -> Message:
    raise NotSupported(f"{name} is not supported: {why}")


def _parse(request_type: type[Message], data: bytes) -> Message:
    if len(data) > MAX_CONTROL_BYTES:
        raise InvalidRequest(
            f"a {request_type.__name__} may have at most {MAX_CONTROL_BYTES} bytes, got {len(data)}"
        )
    return _parsed(request_type, data)


def _parsed(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            f"the request ({len(data)} bytes) is not a valid {request_type.__name__}: {error}"
        ) from error
