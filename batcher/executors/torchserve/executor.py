"""The executor: one object, its connections to TorchServe, any number of batches in flight."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import grpc
import grpc.aio

from batcher.clock import MILLISECOND, SECOND
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import (
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    ParameterValue,
    TensorSpec,
    read_options,
)
from batcher.executors.remote.channel import connection_changes, open_channel, tls_stamps
from batcher.executors.remote.headers import Headers, hiding, without_secrets
from batcher.executors.remote.instances import Instances
from batcher.executors.remote.rows import SentRows, json_rows
from batcher.executors.remote.tensor_options import declared
from batcher.executors.remote.watching import NeighborWatch
from batcher.executors.torchserve.calls import (
    Calls,
    JsonRows,
    RawRows,
    SafetensorsBatch,
    WholeJson,
)
from batcher.executors.torchserve.management import Described, Management
from batcher.executors.torchserve.options import TorchserveOptions
from batcher.executors.torchserve.statuses import NO_TOKEN, failure, said
from batcher.executors.torchserve.tokens import Tokens
from batcher.protocol import (
    MAX_CONTROL_BYTES,
    TORCHSERVE_INFERENCE,
    TORCHSERVE_MANAGEMENT,
    Stub,
    methods,
)
from batcher.protocol import torchserve_inference as messages

__all__ = ["TorchserveExecutor"]

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 64
"""The most batches of one object at TorchServe at once; more than one only helps with more workers."""

HOLD_S: Final = 5.0
"""Seconds that a cancelled batch keeps its place while TorchServe goes on with it. Then the call is cancelled,
and the next batch may wait in TorchServe's queue. A shorter time tells the scheduler sooner, and wrongly, that a
slow worker is free; a longer one delays a shutdown by as much."""

LARGE: Final = 64 * 1024
"""Bytes of a batch or an answer from which a thread reads and writes JSON: 5 ms of it."""

_PING: Final = methods(TORCHSERVE_INFERENCE)["Ping"].request
_ORDER: Final = ("unavailable", "overloaded", "input", "unknown")
"""Of several calls of a batch that failed, the one whose cause is first says why."""


class TorchserveExecutor:
    """Sends each batch to TorchServe as one `Predictions`, or as one for each row."""

    capabilities = Capabilities(dynamic_axes=True, max_in_flight=MAX_IN_FLIGHT)
    sends_on = True
    options = TorchserveOptions

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Connect, and ask what TorchServe says of the model.

        Raises `BackendUnavailable` while TorchServe or the model's workers are not there, else
        `ModelLoadError`.
        """
        options = read_options(context, TorchserveOptions)
        self._context, self._given = context, options
        inputs = declared(context, "inputs", options.inputs)
        outputs = declared(context, "outputs", options.outputs)
        self._inputs = {spec.name: spec for spec in inputs}
        self._calls = self._codec({spec.name: spec for spec in outputs})
        self._tokens = None
        if options.tokens is not None:
            self._tokens = await asyncio.to_thread(Tokens, context.model, options.tokens)
        self._headers = await asyncio.to_thread(Headers, context.model, options.metadata)
        self._tls_stamps = tls_stamps(self._given.tls)
        self._channel = self._open(options.url, options.max_message)
        self._management_channel: grpc.aio.Channel | None = None
        self._predictions: Any = Stub(self._channel, TORCHSERVE_INFERENCE)
        self._management: Management | None = None
        if options.management_url is not None:
            self._management_channel = self._open(options.management_url, MAX_CONTROL_BYTES)
            stub = Stub(self._management_channel, TORCHSERVE_MANAGEMENT)
            self._management = Management(stub, context.model, options)
        self._name = options.model or context.model
        self._ready: int | None = None
        self._down = ""
        """Why no worker can take a batch; empty if one may."""
        try:
            with hiding(self._secrets):
                self._found = await self._discover()
        except BaseException:
            await self.close()
            raise
        self._watch = NeighborWatch(
            self._ask, self._changed, options.health_interval / SECOND, hide=self._hidden
        )
        return self._metadata(inputs, outputs)

    async def execute(self, batch: Batch) -> BatchResult:
        """Send the batch and read the answers.

        Cancelled, it ends when TorchServe has ended the batch, after `HOLD_S` at the latest.
        """
        with hiding(self._secrets):
            result = await self._execute(batch)
        if not result.row_errors:
            return result
        errors = {row: self._hidden(why) for row, why in result.row_errors.items()}
        return replace(result, row_errors=errors)

    async def _execute(self, batch: Batch) -> BatchResult:
        if self._down:
            # It would wait in TorchServe's queue until workers have started, which takes seconds that
            # callers would not get, and that the scheduler would take for the model's.
            raise ExecutionError(self._down, cause="unavailable")
        if self._coded_json and sum(array.nbytes for array in batch.inputs.values()) > LARGE:
            sent, calls = await asyncio.to_thread(self._written, batch)
        else:
            sent, calls = self._written(batch)
        answers = await self._answers(calls)
        try:
            if self._coded_json and sum(map(len, answers)) > LARGE:
                return await asyncio.to_thread(self._read, answers, sent, batch.outputs)
            return self._read(answers, sent, batch.outputs)
        except ExecutionError as error:
            self._watch.doubt()
            raise ExecutionError(f"{self}: {error}", cause=error.cause) from None

    def _secrets(self) -> tuple[tuple[str, str], ...]:
        tokens = self._tokens
        own = () if tokens is None else (*tokens.inference, *tokens.management)
        return (*own, *self._headers.current)

    def _hidden(self, text: str) -> str:
        return without_secrets(text, self._secrets())

    async def watch(self, report: Callable[[str], None]) -> None:
        """Report whether TorchServe can execute the model; return when it is another version."""
        tracking = asyncio.get_running_loop().create_task(
            connection_changes(self._channel, self._watch.doubt)
        )
        try:
            why = await self._watch.run(report)
        finally:
            tracking.cancel()
            await asyncio.gather(tracking, return_exceptions=True)
        log.info("%s: the model is loaded again: %s", self._context.model, why)

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()
        if self._management_channel is not None:
            await self._management_channel.close()

    def __str__(self) -> str:
        return f"TorchServe {self._given.url}"

    # Loading

    def _open(self, url: str, max_message: int) -> grpc.aio.Channel:
        return open_channel(self._context.model, url, self._given.tls, max_message)

    def _codec(self, outputs: Mapping[str, TensorSpec]) -> Calls:
        given, batched = self._given, self._context.max_batch_size > 0
        self._coded_json = given.coded == "json"
        if given.send == "rows" and not batched:
            raise ModelLoadError(
                f"model {self._context.model!r}: option send: rows needs a model with a batch axis"
            )
        if given.coded != "safetensors":
            for spec in self._inputs.values():
                if not spec.batched:
                    raise ModelLoadError(
                        f"model {self._context.model!r}: input {spec.name!r} belongs to all rows of a"
                        " batch, which only encoding: safetensors can send"
                    )
        if given.coded == "safetensors":
            return SafetensorsBatch(self._inputs, outputs, batched=batched)
        if given.coded == "raw":
            return RawRows(self._inputs, next(iter(outputs.values())))
        instances = Instances(
            self._inputs, outputs, batched=batched, style=given.bytes, form=given.instances
        )
        if given.send == "batch":
            return WholeJson(instances)
        return JsonRows(self._inputs, instances, given.bytes)

    def _metadata(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> ModelMetadata:
        properties = {"neighbor": self._given.url, "model": self._name}
        most = None
        if self._found is not None:
            properties["version"] = self._found.version
            properties["workers"] = str(self._found.ready)
            if self._given.send == "rows" and self._found.batch_size > 1:
                most = self._found.batch_size
                properties["batch size"] = str(most)
        return ModelMetadata(
            platform="torchserve",
            inputs=inputs,
            outputs=outputs,
            properties=properties,
            parameters=self._given.forward_parameters,
            max_batch_size=most,
        )

    async def _discover(self) -> Described | None:
        """The model at TorchServe; None if there is no management API to ask."""
        if self._management is None:
            why = await self._asked_ping()
            if why:
                raise BackendUnavailable(f"model {self._context.model!r}: {why}")
            return None
        rows = self._context.max_batch_size if self._given.send == "rows" else 1
        found = await self._management.prepared(self._authorized(management=True), rows)
        self._check(found)
        self._ready = found.ready
        return found

    def _check(self, found: Described) -> None:
        """Raise `ModelLoadError` if TorchServe's own batching would get in the way."""
        where = f"model {self._context.model!r}: {self} has for model {self._name!r}"
        if found.drops_late:
            raise ModelLoadError(
                f"{where} a clientTimeoutInMills, after which it drops calls without an answer; allowed: 0"
            )
        if self._given.send == "batch":
            if found.batch_size > 1:
                raise ModelLoadError(
                    f"{where} batchSize {found.batch_size}, and would let each batch wait"
                    f" {found.max_batch_delay_ms} ms for others; allowed: batchSize 1 (or send: rows)"
                )
            return
        if found.queue is not None and found.queue < found.batch_size:
            raise ModelLoadError(
                f"{where} a job_queue_size of {found.queue}; allowed: at least its batchSize,"
                f" {found.batch_size}"
            )
        if (
            found.batch_size > 1
            and found.max_batch_delay_ms * MILLISECOND > self._given.max_batch_delay
        ):
            log.warning(
                "%s a maxBatchDelay of %d ms: every batch of fewer than %d rows waits as long; set it to 1,"
                " or register the model by options.archive",
                where, found.max_batch_delay_ms, found.batch_size,
            )  # fmt: skip

    # Executing

    def _written(self, batch: Batch) -> tuple[SentRows, list[dict[str, bytes]]]:
        """The rows that are sent, and the fields of each call."""
        if self._coded_json:
            batched = self._context.max_batch_size > 0
            sent = json_rows(
                batch.inputs, batch.rows, self._inputs, self._given.bytes, batched=batched
            )
        else:
            sent = SentRows(batch.inputs, batch.rows, batch.rows)
        calls = self._calls.write(sent.inputs, sent.rows)
        parameters = {name: _as_text(value) for name, value in batch.parameters.items()}
        for fields in calls:
            fields.update(parameters)
            size = sum(map(len, fields.values()))
            if size > self._given.max_message:
                raise ExecutionError(
                    f"a call of {size} bytes for {self}; options.max_message allows"
                    f" {self._given.max_message}",
                    cause="input",
                )
        return sent, calls

    def _read(
        self, answers: list[bytes], sent: SentRows, wanted: frozenset[str] | None
    ) -> BatchResult:
        return sent.result(self._calls.read(answers, sent.rows, wanted))

    async def _answers(self, calls: list[dict[str, bytes]]) -> list[bytes]:
        """The answers of all calls of a batch. Raises `ExecutionError`."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._predict(fields)) for fields in calls]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            await self._held(tasks)
            raise
        if any(task.cancelled() for task in tasks):
            raise ExecutionError(f"{self}: the connection was closed", cause="unavailable")
        failures = [error for task in tasks if (error := task.exception()) is not None]
        if not failures:
            return [task.result() for task in tasks]
        told = []
        for error in failures:
            if not isinstance(error, grpc.aio.AioRpcError):
                raise error
            told.append(failure(str(self), error, workers=self._ready))
        first = min(told, key=lambda each: _ORDER.index(each.cause))
        if first.cause in {"unavailable", "overloaded"}:
            self._watch.doubt()
        raise first

    @staticmethod
    async def _held(tasks: list[asyncio.Task[bytes]]) -> None:
        """Wait for the calls of a cancelled batch; cancelled once more, or after a while, end them."""
        try:
            await asyncio.wait(tasks, timeout=HOLD_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _predict(self, fields: dict[str, bytes]) -> bytes:
        """The answer to one call. Raises `AioRpcError`."""
        request = messages.PredictionsRequest(
            model_name=self._name, model_version=self._given.version or "", input=fields
        )
        try:
            answer = await self._predictions.Predictions(request, metadata=self._authorized())
        except grpc.aio.AioRpcError as error:
            # Tokens expire, and TorchServe makes new ones when it starts. It executed nothing.
            if not said(error).startswith(NO_TOKEN) or not await self._new_tokens():
                raise
            answer = await self._predictions.Predictions(request, metadata=self._authorized())
        prediction: bytes = answer.prediction
        return prediction

    def _authorized(self, *, management: bool = False) -> tuple[tuple[str, str], ...]:
        """The headers of a call."""
        headers = self._headers.current
        if self._tokens is None:
            return headers
        token = self._tokens.management if management else self._tokens.inference
        return (*headers, *token)

    async def _new_tokens(self) -> bool:
        return self._tokens is not None and await asyncio.to_thread(self._tokens.refresh)

    # Watching

    async def _ask(self) -> str:
        if self._tokens is not None:
            await asyncio.to_thread(self._tokens.refresh)
        if self._headers.from_files:
            await asyncio.to_thread(self._headers.refresh)
        if tls_stamps(self._given.tls) != self._tls_stamps:
            self._watch.doubt()
        if self._management is None:
            return await self._asked_ping()
        try:
            found = await self._management.described(
                self._authorized(management=True), self._given.health_timeout / SECOND
            )
        except grpc.aio.AioRpcError as error:
            why = f"{self._management} answered {error.code().name}: {said(error)}"
            # What else it answers says nothing of the workers: batches are tried.
            self._down = why if error.code() is grpc.StatusCode.UNAVAILABLE else ""
            return why
        except ValueError as error:
            self._down = ""
            return f"what {self._management} says of model {self._name!r} cannot be read: {error}"
        self._ready = 0 if found is None else found.ready
        if found is None:
            self._down = ""
            # Loading registers it again if the options say so.
            self._watch.doubt()
            return "" if self._given.archive else f"{self._management} has no model {self._name!r}"
        why = "" if found.ready else f"no worker of {self} is ready for model {self._name!r}"
        self._down = why
        return why

    async def _asked_ping(self) -> str:
        try:
            answer = await self._predictions.Ping(
                _PING(),
                metadata=self._authorized(),
                timeout=self._given.health_timeout / SECOND,
            )
            health = json.loads(answer.health)
            status = health.get("status") if isinstance(health, dict) else None
        except grpc.aio.AioRpcError as error:
            return f"{self} answered {error.code().name}: {said(error)}"
        except (ValueError, RecursionError):
            status = None
        return "" if status == "Healthy" else f"{self} says that a model of it lacks workers"

    async def _changed(self) -> str:
        if tls_stamps(self._given.tls) != self._tls_stamps:
            return "the files of options.tls have changed"
        if self._management is None or self._found is None:
            return ""
        found = await self._management.described(
            self._authorized(management=True), self._given.health_timeout / SECOND
        )
        if found is None:
            return f"{self} has no model {self._name!r} any more"
        then, now = (
            (each.version, each.batch_size, each.max_batch_delay_ms, each.drops_late)
            for each in (self._found, found)
        )
        return (
            "" if then == now else f"{self} serves another version of {self._name!r}, or as others"
        )


def _as_text(value: ParameterValue) -> bytes:
    """A parameter as a handler reads it: text as it is, `true` and `false`, numbers in decimal."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode()
