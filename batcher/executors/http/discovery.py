"""The model at the neighbor: where it is asked, whether it is ready, and what it takes and gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from batcher.clock import SECOND
from batcher.errors import BackendUnavailable, ModelLoadError, on_one_line
from batcher.executor import ExecutionError, LoadContext, ModelMetadata
from batcher.executors.http.options import HttpOptions
from batcher.executors.http.response import Response, UnreachableError, WrongAnswerError
from batcher.executors.http.statuses import cause_of, reason
from batcher.executors.http.v2 import read_specs
from batcher.executors.remote.json_values import JsonError, loads
from batcher.executors.remote.tensor_options import declared

if TYPE_CHECKING:
    from batcher.executors.http.client import Client

__all__ = ["Discovered", "Neighbor"]

_BINARY: Final = "binary_tensor_data"
"""The extension of servers that take tensors as bytes."""

HeaderPairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Discovered:
    """What is known of the model."""

    metadata: ModelMetadata
    binary: bool
    """Whether tensors are sent as bytes."""


class Neighbor:
    """A model at a neighbor."""

    def __init__(self, client: Client, context: LoadContext, options: HttpOptions) -> None:
        self._client = client
        self._context = context
        self._given = options
        self.model = options.model or context.model
        name = quote(self.model, safe="")
        if options.protocol == "v1":
            self._model_path = f"/v1/models/{name}"
            self._path = options.path or f"{self._model_path}:predict"
            self._ready_path = options.ready_path or self._model_path
        else:
            version = f"/versions/{quote(options.version, safe='')}" if options.version else ""
            self._model_path = f"/v2/models/{name}{version}"
            self._path = options.path or f"{self._model_path}/infer"
            self._ready_path = options.ready_path or f"{self._model_path}/ready"

    def __str__(self) -> str:
        return f"the neighbor {self._given.url}"

    async def post(self, body: bytes, headers: dict[str, str]) -> Response:
        """Send a batch. Raises `ExecutionError` if no answer comes, or none that is HTTP."""
        try:
            return await self._client.post(self._path, headers, body)
        except UnreachableError as error:
            raise ExecutionError(f"{self}: {error}", cause="unavailable") from None
        except WrongAnswerError as error:
            raise ExecutionError(f"{self}: {error}") from None

    async def ready(self, headers: HeaderPairs) -> str:
        """Why the model cannot be used there; empty if it can."""
        try:
            async with asyncio.timeout(self._given.health_timeout / SECOND) as limit:
                answer = await self._client.get(self._ready_path, dict(headers))
        except TimeoutError:
            if not limit.expired():
                raise
            return f"{self} does not answer"
        except (UnreachableError, WrongAnswerError) as error:
            return f"{self}: {error}"
        if answer.status != 200:
            said = reason(answer.body)
            return f"{self} answered HTTP {answer.status} for {self._ready_path}: {said}"
        if self._given.protocol == "v1" and not _says_ready(answer.body):
            return f"{self} says that model {self.model!r} is not ready"
        return ""

    async def discover(self, headers: HeaderPairs) -> Discovered:
        """Ask for the model. Raises `BackendUnavailable` if that may succeed later, else `ModelLoadError`."""
        given, context = self._given, self._context
        why = await self.ready(headers)
        if why:
            raise BackendUnavailable(f"model {context.model!r}: {why}")
        platform, found = f"kserve {given.protocol}", None
        if given.inputs:
            inputs = declared(context, "inputs", given.inputs)
            outputs = declared(context, "outputs", given.outputs)
            for spec in inputs:
                if given.protocol == "v1" and not spec.batched:
                    raise ModelLoadError(
                        f"model {context.model!r}: input {spec.name!r} belongs to all rows of a batch,"
                        " and protocol v1 has no place for it"
                    )
        else:
            found = await self._json(self._model_path, headers)
            try:
                inputs, outputs = read_specs(found, "inputs"), read_specs(found, "outputs")
            except JsonError as error:
                raise self._strange(self._model_path, str(error)) from None
            if not inputs or not outputs:
                raise self._strange(
                    self._model_path,
                    "it does not say which inputs and outputs the model has; allowed: to declare them by"
                    " options.inputs and options.outputs",
                )
        if isinstance(found, dict) and isinstance(found.get("platform"), str):
            platform = on_one_line(found["platform"]) or platform
        metadata = ModelMetadata(
            platform=platform,
            inputs=inputs,
            outputs=outputs,
            properties={"neighbor": given.url, "model": self.model},
            parameters=given.forward_parameters,
            metadata=given.forward_metadata,
        )
        return Discovered(metadata, await self._binary(headers))

    async def _binary(self, headers: HeaderPairs) -> bool:
        if self._given.protocol == "v1" or self._given.binary != "auto":
            return self._given.binary == "on"
        found = await self._json("/v2", headers, optional=True)
        extensions = found.get("extensions") if isinstance(found, dict) else None
        return isinstance(extensions, list) and _BINARY in extensions

    async def _json(self, path: str, headers: HeaderPairs, *, optional: bool = False) -> Any:
        """What a GET of `path` answers; None for any status but 200 if `optional`."""
        model = self._context.model
        try:
            async with asyncio.timeout(self._given.connect_timeout / SECOND) as limit:
                answer = await self._client.get(path, dict(headers))
        except TimeoutError:
            if not limit.expired():
                raise
            raise BackendUnavailable(f"model {model!r}: {self} does not answer") from None
        except UnreachableError as error:
            raise BackendUnavailable(f"model {model!r}: {self}: {error}") from None
        except WrongAnswerError as error:
            raise self._strange(path, str(error)) from None
        if answer.status != 200:
            if optional:
                return None
            text = f"model {model!r}: {self} answered HTTP {answer.status} for {path}:"
            later = answer.status == 404 or cause_of(answer.status) == "overloaded"
            kind = BackendUnavailable if later or answer.status >= 500 else ModelLoadError
            raise kind(f"{text} {reason(answer.body)}")
        try:
            return loads(answer.body)
        except JsonError as error:
            raise self._strange(path, str(error)) from None

    def _strange(self, path: str, why: str) -> ModelLoadError:
        return ModelLoadError(
            f"model {self._context.model!r}: what {self} answers for {path}: {why}"
        )


def _says_ready(body: bytes) -> bool:
    """Whether the answer of a v1 server for a model does not say that it is not ready."""
    try:
        found = loads(body)
    except JsonError:
        return True
    ready = found.get("ready", True) if isinstance(found, dict) else True
    return str(ready).lower() != "false"
