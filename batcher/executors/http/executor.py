"""The executor: one object, its pool of connections to the neighbor, any number of batches in flight."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batcher.clock import SECOND
from batcher.errors import ModelLoadError
from batcher.executor import (
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    read_options,
)
from batcher.executors.http.discovery import Discovered, Neighbor
from batcher.executors.http.options import HttpOptions, place_of
from batcher.executors.http.response import Response
from batcher.executors.http.statuses import failure
from batcher.executors.http.v2 import JSON_LENGTH, Bodies
from batcher.executors.remote.channel import tls_stamps
from batcher.executors.remote.deadlines import left_s
from batcher.executors.remote.headers import Headers, hiding, sendable, without_secrets
from batcher.executors.remote.instances import Instances
from batcher.executors.remote.rows import SentRows, json_rows
from batcher.executors.remote.watching import NeighborWatch

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 64
"""The most batches of one object at the neighbor at once, and so connections of its pool."""

LARGE: Final = 64 * 1024
"""Bytes of tensors, or of an answer, from which a thread reads and writes them. As JSON that is some 16,000
numbers, which take 5 ms; passing them to a thread takes 0.1 ms."""


class HttpExecutor:
    """Sends each batch to the neighbor as one HTTP request."""

    capabilities = Capabilities(dynamic_axes=True, max_in_flight=MAX_IN_FLIGHT)
    sends_on = True
    options = HttpOptions

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Ask what the model is, and whether it is ready.

        Raises `BackendUnavailable` while the neighbor or its model is not there, else `ModelLoadError`.
        """
        options = read_options(context, HttpOptions)
        self._context, self._given = context, options
        self._sent = 0
        self._headers = await asyncio.to_thread(Headers, context.model, options.metadata)
        client = await asyncio.to_thread(_client_module, context.model)
        place = place_of(options.url)
        self._tls_stamps = tls_stamps(self._given.tls)
        tls = None
        if place.tls:
            tls = await asyncio.to_thread(client.tls_context, context.model, options.tls)
        self._client = client.Client(
            place,
            tls,
            server_name=None if options.tls is None else options.tls.server_name,
            keep_alive_s=options.keep_alive / SECOND,
            max_answer=options.max_answer,
        )
        self._neighbor = Neighbor(self._client, context, options)
        try:
            with hiding(self._secrets):
                found = await self._discover()
        except BaseException:
            await self._client.close()
            raise
        self._found = found
        self._set_codec(found)
        self._watch = NeighborWatch(
            self._ask, self._changed, options.health_interval / SECOND, hide=self._hidden
        )
        return found.metadata

    async def execute(self, batch: Batch) -> BatchResult:
        """Send the batch and read the answer. Cancelling it closes its connection."""
        with hiding(self._secrets):
            result = await self._execute(batch)
        if not result.row_errors:
            return result
        errors = {row: self._hidden(why) for row, why in result.row_errors.items()}
        return replace(result, row_errors=errors)

    async def _execute(self, batch: Batch) -> BatchResult:
        self._sent += 1
        number = str(self._sent)
        nbytes = sum(array.nbytes for array in batch.inputs.values())
        if nbytes > LARGE:
            sent, body, headers = await asyncio.to_thread(self._written, batch, number)
        else:
            sent, body, headers = self._written(batch, number)
        headers.update(self._headers.current)
        headers.update((name, str(value)) for name, value in sendable(batch.metadata))
        answer = await self._post(body, headers, batch.deadline_ns)
        if answer.status != 200:
            if answer.status not in {400, 413, 422}:
                self._watch.doubt()
            raise failure(
                str(self._neighbor), answer.status, answer.headers, answer.body, time.time()
            )
        try:
            if len(answer.body) > LARGE:
                return await asyncio.to_thread(self._read, answer, sent, batch.outputs, number)
            return self._read(answer, sent, batch.outputs, number)
        except ExecutionError as error:
            if error.cause == "unknown":
                # Perhaps another model has taken the name; then it is loaded again.
                self._watch.doubt()
            raise ExecutionError(f"{self._neighbor}: {error}", cause=error.cause) from None

    def _secrets(self) -> tuple[tuple[str, str], ...]:
        return self._headers.current

    def _hidden(self, text: str) -> str:
        return without_secrets(text, self._secrets())

    async def watch(self, report: Callable[[str], None]) -> None:
        """Report whether the neighbor's model is ready; return when it is another one."""
        why = await self._watch.run(report)
        log.info("%s: the model is loaded again: %s", self._context.model, why)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _set_codec(self, found: Discovered) -> None:
        of_rows = self._context.batched
        self._inputs = {
            spec.name: replace(spec, batched=of_rows.get(spec.name, spec.batched))
            for spec in found.metadata.inputs
        }
        outputs = {spec.name: spec for spec in found.metadata.outputs}
        self._batched = self._context.max_batch_size > 0
        self._v1: Instances | None = None
        self._v2: Bodies | None = None
        if self._given.protocol == "v1":
            self._v1 = Instances(
                self._inputs,
                outputs,
                batched=self._batched,
                style=self._given.bytes,
                form=self._given.instances,
            )
        else:
            self._v2 = Bodies(self._inputs, outputs, batched=self._batched, binary=found.binary)

    def _written(self, batch: Batch, number: str) -> tuple[SentRows, bytes, dict[str, str]]:
        """The rows that are sent, the body, and its headers."""
        headers = {"Content-Type": "application/json"}
        if self._v2 is not None and self._v2.binary:
            sent = SentRows(batch.inputs, batch.rows, batch.rows)
        else:
            sent = json_rows(
                batch.inputs, batch.rows, self._inputs, self._given.bytes, batched=self._batched
            )
        if self._v1 is not None:
            return sent, self._v1.body(sent.inputs, sent.rows), headers
        assert self._v2 is not None  # noqa: S101 - one of them is set
        body, json_bytes = self._v2.body(sent.inputs, batch.outputs, batch.parameters, number)
        if self._v2.binary:
            headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(json_bytes)}
        return sent, body, headers

    async def _post(
        self, body: bytes, headers: dict[str, str], deadline_ns: int | None
    ) -> Response:
        try:
            async with asyncio.timeout(left_s(deadline_ns)) as limit:
                return await self._neighbor.post(body, headers)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ExecutionError(
                f"{self._neighbor} did not answer before the deadline", cause="unavailable"
            ) from None
        except ExecutionError:
            self._watch.doubt()
            raise

    def _read(
        self, answer: Response, sent: SentRows, wanted: frozenset[str] | None, number: str
    ) -> BatchResult:
        if self._v1 is not None:
            return sent.result(self._v1.answer(answer.body, sent.rows))
        assert self._v2 is not None  # noqa: S101 - one of them is set
        json_length = answer.headers.get(JSON_LENGTH)
        return sent.result(self._v2.answer(answer.body, json_length, sent.rows, wanted, number))

    async def _discover(self) -> Discovered:
        return await self._neighbor.discover(self._headers.current)

    async def _ask(self) -> str:
        if self._headers.from_files:
            await asyncio.to_thread(self._headers.refresh)
        if tls_stamps(self._given.tls) != self._tls_stamps:
            self._watch.doubt()
        return await self._neighbor.ready(self._headers.current)

    async def _changed(self) -> str:
        if tls_stamps(self._given.tls) != self._tls_stamps:
            return "the files of options.tls have changed"
        found = await self._discover()
        if found != self._found:
            return f"{self._neighbor} serves another model {self._neighbor.model!r} now"
        return ""


def _client_module(model: str) -> ModuleType:
    """The module that imports aiohttp, which takes a while. Raises `ModelLoadError` without it."""
    try:
        return importlib.import_module("batcher.executors.http.client")
    except ImportError as error:
        raise ModelLoadError(
            f"model {model!r}: the executor http needs the library aiohttp, which cannot be imported"
            f" ({error}); install it: pip install aiohttp"
        ) from error
