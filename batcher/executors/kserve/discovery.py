"""Asks a neighbor what a model is, and says it in the words of `ModelMetadata`.

Servers disagree on whether shapes have the batch axis. Triton's ModelConfig never has it where
`max_batch_size` is above 0, and its ModelMetadata always has it then. Others only answer ModelMetadata,
with what the author of the model wrote. So where there is a configuration, shapes come from it and
the batch axis is added; otherwise shapes are taken as they are and must begin with -1 to be batched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from batcher.errors import BackendUnavailable, ConfigError, ModelLoadError, on_one_line
from batcher.executor import LoadContext, ModelMetadata, TensorSpec
from batcher.executors.kserve.options import KserveOptions
from batcher.protocol import inference
from batcher.triton_models import TritonConfig, TritonModel, TritonTensor, model_of, read_config

_NOT_YET: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Statuses of a neighbor that may be up, or have the model, a moment later."""

_NO_METHOD: Final = grpc.StatusCode.UNIMPLEMENTED


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A model at a neighbor, as error messages name it, and how to ask for it."""

    stub: Any
    """The methods of the Open Inference Protocol, on a channel."""
    url: str
    model: str
    version: str
    """Empty: the neighbor chooses."""
    timeout_s: float

    def __str__(self) -> str:
        return f"the neighbor {self.url}"

    async def ready(self, metadata: Sequence[tuple[str, str]], timeout_s: float) -> str:
        """Why the model cannot be used there; empty if it can. Raises `AioRpcError`."""
        try:
            answer = await self.stub.ModelReady(
                inference.ModelReadyRequest(name=self.model, version=self.version),
                timeout=timeout_s,
                metadata=metadata,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not _NO_METHOD:
                raise
            answer = await self.stub.ServerReady(
                inference.ServerReadyRequest(), timeout=timeout_s, metadata=metadata
            )
        return "" if answer.ready else f"{self} says that model {self.shown} is not ready"

    @property
    def shown(self) -> str:
        """The model there, for messages."""
        return f"{self.model!r}" + (f" version {self.version}" if self.version else "")

    async def ask(
        self, method: str, request: object, metadata: Sequence[tuple[str, str]], *, optional: bool
    ) -> Any:
        """The answer to a call; None if `optional` and the neighbor does not have the method.

        Raises `AioRpcError`.
        """
        try:
            return await getattr(self.stub, method)(
                request, timeout=self.timeout_s, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            if optional and error.code() is _NO_METHOD:
                return None
            raise


@dataclass(frozen=True, slots=True)
class Discovered:
    """What a neighbor says of itself and of a model."""

    metadata: ModelMetadata
    extensions: frozenset[str]
    """What the server can do besides the protocol."""


async def discover(
    neighbor: Neighbor,
    context: LoadContext,
    options: KserveOptions,
    headers: Sequence[tuple[str, str]],
) -> Discovered:
    """Ask for the model. Raises `BackendUnavailable` if that may succeed later, else `ModelLoadError`."""
    try:
        why = await neighbor.ready(headers, neighbor.timeout_s)
        if why:
            raise BackendUnavailable(f"model {context.model!r}: {why}")
        name, version = neighbor.model, neighbor.version
        server, metadata, config = await asyncio.gather(
            neighbor.ask(
                "ServerMetadata", inference.ServerMetadataRequest(), headers, optional=True
            ),
            neighbor.ask(
                "ModelMetadata",
                inference.ModelMetadataRequest(name=name, version=version),
                headers,
                optional=False,
            ),
            neighbor.ask(
                "ModelConfig",
                inference.ModelConfigRequest(name=name, version=version),
                headers,
                optional=True,
            )
            if options.config is None
            else _nothing(),
        )
    except grpc.aio.AioRpcError as error:
        text = (
            f"model {context.model!r}: {neighbor} answered {error.code().name} for model"
            f" {neighbor.shown}: {on_one_line(error.details() or 'no reason given')}"
        )
        kind = BackendUnavailable if error.code() in _NOT_YET else ModelLoadError
        raise kind(text) from None
    triton = await _triton_model(neighbor, context, options, config)
    found = _metadata(neighbor, context, options, metadata, triton)
    return Discovered(found, frozenset(server.extensions) if server is not None else frozenset())


async def _nothing() -> None:
    return None


async def _triton_model(
    neighbor: Neighbor, context: LoadContext, options: KserveOptions, answer: Any
) -> TritonModel | None:
    """The model's configuration: from the file, else as the neighbor answered; None without both."""
    try:
        if options.config is not None:
            found = model_of(await asyncio.to_thread(read_config, options.config))
        elif answer is not None and answer.HasField("config"):
            found = model_of(TritonConfig(answer.config, f"ModelConfig of {neighbor}"))
        else:
            return None
    except ConfigError as error:
        raise ModelLoadError(f"model {context.model!r}: {on_one_line(str(error))}") from None
    refusals = []
    if found.decoupled:
        refusals.append("it is decoupled: a request may have any number of answers")
    if found.sequences is not None:
        refusals.append("it has sequences, whose state the neighbor keeps for each caller")
    if refusals:
        raise ModelLoadError(
            f"model {context.model!r}: model {neighbor.shown} of {neighbor} cannot be batched here:"
            f" {'; '.join(refusals)}; let its callers ask the neighbor itself"
        )
    return found


def _metadata(
    neighbor: Neighbor,
    context: LoadContext,
    options: KserveOptions,
    answer: inference.ModelMetadataResponse,
    triton: TritonModel | None,
) -> ModelMetadata:
    problems: list[str] = []
    if triton is None:
        inputs, outputs = _as_they_are(answer.inputs), _as_they_are(answer.outputs)
    else:
        batched = triton.max_batch_size > 0
        inputs = _from_config("input", triton.inputs, answer.inputs, problems, batched=batched)
        outputs = _from_config("output", triton.outputs, answer.outputs, problems, batched=batched)
    for what, specs in (("inputs", inputs), ("outputs", outputs)):
        if not specs:
            problems.append(
                f"it does not say which {what} the model has; allowed: options.config, the path of a"
                " config.pbtxt that does"
            )
    if problems:
        raise ModelLoadError(
            f"model {context.model!r}: model {neighbor.shown} of {neighbor}: {'; '.join(problems)}"
        )
    properties = {"neighbor": neighbor.url, "model": neighbor.model}
    if answer.versions:
        properties["versions"] = ",".join(answer.versions)
    return ModelMetadata(
        platform=on_one_line(answer.platform) or (triton.backend if triton else "") or "kserve",
        inputs=inputs,
        outputs=outputs,
        properties=properties,
        parameters=options.forward_parameters,
        metadata=options.forward_metadata,
        max_batch_size=None if triton is None else triton.max_batch_size,
        preferred_batch_sizes=triton.batching.preferred_sizes if triton and triton.batching else (),
    )


def _as_they_are(
    tensors: Iterable[inference.ModelMetadataResponse.TensorMetadata],
) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in tensors)


def _from_config(
    what: str,
    tensors: Sequence[TritonTensor],
    metadata: Sequence[inference.ModelMetadataResponse.TensorMetadata],
    problems: list[str],
    *,
    batched: bool,
) -> tuple[TensorSpec, ...]:
    """The specs of a configuration, which must have the names and datatypes of the metadata, if any."""
    answered = {each.name: each.datatype for each in metadata}
    configured = {each.name: each.datatype for each in tensors}
    if answered and configured and answered != configured:
        problems.append(
            f"its metadata and its configuration disagree about {what}s:"
            f" {_listed(answered)} and {_listed(configured)}"
        )
    if not tensors:
        return _as_they_are(metadata)
    axis = (-1,) if batched else ()
    return tuple(
        TensorSpec(each.name, each.datatype, (*axis, *each.dims), optional=each.optional)
        for each in tensors
    )


def _listed(datatypes: dict[str, str]) -> str:
    return ", ".join(f"{name} {datatype}" for name, datatype in datatypes.items())
