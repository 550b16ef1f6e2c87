"""What TorchServe says of a model, and what it is told to do with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from batcher.clock import MILLISECOND, SECOND
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executors.torchserve.options import TorchserveOptions
from batcher.executors.torchserve.statuses import NO_TOKEN, said
from batcher.protocol import torchserve_management as messages

__all__ = ["Described", "Management"]

log = logging.getLogger(__name__)

_START_S: Final = 120.0
"""Seconds for workers to start: TorchServe's own default."""

_NOT_YET: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
}
"""Statuses of a TorchServe that may be up, or have the model, a moment later."""

HeaderPairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Described:
    """One version of a model as TorchServe describes it."""

    version: str
    batch_size: int
    """The most calls that TorchServe puts together."""
    max_batch_delay_ms: int
    workers: tuple[int, int]
    """The fewest and the most workers it should have."""
    ready: int
    """The workers that are ready."""
    queue: int | None
    """The most calls that may wait for a worker; None if it does not say."""
    drops_late: bool
    """Whether it drops calls that it has had for too long, without an answer."""


class Management:
    """The management API of a TorchServe, for one model."""

    def __init__(self, stub: Any, model: str, options: TorchserveOptions) -> None:
        """`stub`: the methods on a channel. `model`: the name that the model has here, for messages."""
        self._stub = stub
        self._model = model
        self._given = options
        self.name = options.model or model

    def __str__(self) -> str:
        return f"TorchServe {self._given.management_url}"

    async def described(self, headers: HeaderPairs, timeout_s: float) -> Described | None:
        """The model; None if TorchServe does not have it. Raises `AioRpcError`, and ValueError."""
        request = messages.DescribeModelRequest(
            model_name=self.name, model_version=self._given.version or ""
        )
        try:
            answer = await self._stub.DescribeModel(request, metadata=headers, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return read_description(answer.msg)

    async def prepared(self, headers: HeaderPairs, batch_size: int) -> Described:
        """The model, registered and with its workers if the options say so.

        Raises `BackendUnavailable` if that may succeed later, else `ModelLoadError`.
        """
        timeout_s = self._given.connect_timeout / SECOND
        try:
            found = await self.described(headers, timeout_s)
            if found is None and self._given.archive is not None:
                found = await self._registered(headers, batch_size, timeout_s)
            if found is None:
                raise BackendUnavailable(
                    f"model {self._model!r}: {self} has no model {self._shown}"
                )
            if self._given.workers is not None and found.workers != (self._given.workers,) * 2:
                await self._scale(headers)
                found = await self.described(headers, timeout_s) or found
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except ValueError as error:
            raise ModelLoadError(
                f"model {self._model!r}: what {self} says of model {self._shown} cannot be read: {error}"
            ) from None
        if not found.ready:
            raise BackendUnavailable(
                f"model {self._model!r}: {self} has no worker ready for model {self._shown}"
            )
        return found

    @property
    def _shown(self) -> str:
        version = self._given.version
        return f"{self.name!r}" + (f" version {version}" if version else "")

    async def _registered(
        self, headers: HeaderPairs, batch_size: int, timeout_s: float
    ) -> Described | None:
        try:
            await self._register(headers, batch_size)
        except grpc.aio.AioRpcError:
            # Another instance may have registered it meanwhile, of which TorchServe says nothing.
            found = await self.described(headers, timeout_s)
            if found is None:
                raise
            return found
        return await self.described(headers, timeout_s)

    async def _register(self, headers: HeaderPairs, batch_size: int) -> None:
        log.info("%s: registering model %s at %s", self._model, self._shown, self)
        await self._stub.RegisterModel(
            messages.RegisterModelRequest(
                url=self._given.archive or "",
                model_name=self.name,
                batch_size=batch_size,
                max_batch_delay=max(1, self._given.max_batch_delay // MILLISECOND),
                initial_workers=self._given.workers or 1,
                synchronous=True,
            ),
            metadata=headers,
            timeout=_START_S,
        )

    async def _scale(self, headers: HeaderPairs) -> None:
        workers = self._given.workers or 1
        log.info(
            "%s: having %s run %d workers for model %s", self._model, self, workers, self._shown
        )
        await self._stub.ScaleWorker(
            messages.ScaleWorkerRequest(
                model_name=self.name,
                model_version=self._given.version or "",
                min_worker=workers,
                max_worker=workers,
                synchronous=True,
            ),
            metadata=headers,
            timeout=_START_S,
        )

    def _error(self, error: grpc.aio.AioRpcError) -> ModelLoadError:
        code, text = error.code(), said(error)
        later = code in _NOT_YET or text.startswith(NO_TOKEN)
        kind = BackendUnavailable if later else ModelLoadError
        hint = ""
        if code is grpc.StatusCode.PERMISSION_DENIED and not later:
            hint = " (its setting enable_model_api allows it)"
        return kind(
            f"model {self._model!r}: {self} answered {code.name} for model {self._shown}: {text}{hint}"
        )


def read_description(text: str) -> Described:
    """The one version in an answer to DescribeModel. Raises ValueError."""
    try:
        found = json.loads(text)[0]
        queue = found.get("jobQueueStatus")
        return Described(
            version=str(found["modelVersion"]),
            batch_size=int(found["batchSize"]),
            max_batch_delay_ms=int(found["maxBatchDelay"]),
            workers=(int(found["minWorkers"]), int(found["maxWorkers"])),
            ready=sum(each.get("status") == "READY" for each in found["workers"]),
            queue=None
            if queue is None
            else int(queue["remainingCapacity"]) + int(queue["pendingRequests"]),
            drops_late=int(found.get("clientTimeoutInMills") or 0) > 0,
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
