"""The executor: one object, one connection to the neighbor, any number of batches in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from batcher.clock import SECOND
from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    MetadataValue,
    ModelMetadata,
    read_options,
)
from batcher.executors.kserve.answer import AnswerReader, WrongAnswerError
from batcher.executors.kserve.discovery import Discovered, Neighbor, discover
from batcher.executors.kserve.options import KserveOptions
from batcher.executors.kserve.request import (
    LARGE_MESSAGE,
    RequestWriter,
    joined,
    joined_large,
    message_bytes,
)
from batcher.executors.kserve.shared_memory import Placed, SharedMemory
from batcher.executors.remote.channel import connection_changes, open_channel, tls_stamps
from batcher.executors.remote.deadlines import left_s
from batcher.executors.remote.headers import Headers, hiding, sendable, without_secrets
from batcher.executors.remote.statuses import failure
from batcher.executors.remote.watching import NeighborWatch
from batcher.protocol import INFERENCE, Stub, methods

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 64
"""The most batches of one object at the neighbor at once: HTTP/2 servers take 100 streams and more."""

Sent: TypeAlias = tuple[tuple[str, MetadataValue], ...]
"""The headers of a call."""


class KserveExecutor:
    """Sends each batch to the neighbor as one `ModelInfer`."""

    capabilities = Capabilities(dynamic_axes=True, max_in_flight=MAX_IN_FLIGHT, raw=True)
    sends_on = True
    options = KserveOptions

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Connect and ask what the model is.

        Raises `BackendUnavailable` while the neighbor or its model is not there, else `ModelLoadError`.
        """
        options = read_options(context, KserveOptions)
        self._context, self._given = context, options
        self._headers = await asyncio.to_thread(Headers, context.model, options.metadata)
        self._tls_stamps = tls_stamps(self._given.tls)
        self._channel = open_channel(context.model, options.url, options.tls, options.max_message)
        stub: Any = Stub(self._channel, INFERENCE)
        self._neighbor = Neighbor(
            stub,
            options.url,
            options.model or context.model,
            options.version or "",
            options.connect_timeout / SECOND,
        )
        self._infer = self._channel.unary_unary(methods(INFERENCE)["ModelInfer"].path)
        try:
            with hiding(self._secrets):
                self._found = await self._discover()
            metadata = self._found.metadata
            self._shared = await self._share()
        except BaseException:
            await self._channel.close()
            raise
        self._most_rows = context.max_batch_size
        self._answers = 0
        self._fits = True
        """Whether the neighbor's model has the inputs and outputs that it had at the load."""
        self._datatypes = {spec.name: spec.datatype for spec in metadata.inputs}
        self._all = frozenset(spec.name for spec in metadata.outputs)
        self._writer = RequestWriter(self._neighbor.model, self._neighbor.version)
        self._reader = AnswerReader(
            {spec.name: spec for spec in metadata.outputs}, batched=context.max_batch_size > 0
        )
        self._watch = NeighborWatch(
            self._ask, self._changed, options.health_interval / SECOND, hide=self._hidden
        )
        return metadata

    async def execute(self, batch: Batch) -> BatchResult:
        """Send the batch and read the answer. Cancelling it cancels the call."""
        with hiding(self._secrets):
            return await self._execute(batch)

    async def _execute(self, batch: Batch) -> BatchResult:
        wanted = self._all if batch.outputs is None else batch.outputs
        headers = (*self._headers.current, *sendable(batch.metadata))
        try:
            placed = None
            if self._shared is not None:
                placed = await self._shared.place(batch, wanted, self._most_rows)
            outputs = None
            if placed is not None:
                outputs = await self._through_memory(batch, wanted, headers, placed)
            if outputs is None:
                outputs = await self._through_messages(batch, wanted, headers)
        except grpc.aio.AioRpcError as error:
            raise failure(str(self._neighbor), error) from None
        except WrongAnswerError as error:
            # Perhaps another model has taken the name; then it is loaded again.
            self._watch.doubt()
            raise ExecutionError(f"{self._neighbor} answered {error}") from None
        return BatchResult(outputs)

    def _secrets(self) -> tuple[tuple[str, str], ...]:
        return self._headers.current

    def _hidden(self, text: str) -> str:
        return without_secrets(text, self._secrets())

    async def watch(self, report: Callable[[str], None]) -> None:
        """Report whether the neighbor's model is ready; return when it is another one."""
        tracking = asyncio.get_running_loop().create_task(
            connection_changes(self._channel, self._connection_changed)
        )
        try:
            why = await self._watch.run(report)
        finally:
            tracking.cancel()
            await asyncio.gather(tracking, return_exceptions=True)
        if not self._fits:
            report(why)  # until another object takes this one's place
        log.info("%s: the model is loaded again: %s", self._context.model, why)

    async def close(self) -> None:
        """Remove the shared memory and close the connection."""
        try:
            if self._shared is not None:
                await self._shared.close()
        finally:
            await self._channel.close()

    async def _through_messages(
        self, batch: Batch, wanted: frozenset[str], headers: Sent
    ) -> dict[str, Array]:
        pieces = self._writer.pieces(
            (
                (name, self._datatypes[name], batch.shapes[name], contents)
                for name, contents in batch.raw.items()
            ),
            wanted,
            batch.parameters,
        )
        size = message_bytes(pieces)
        if size > self._given.max_message:
            raise ExecutionError(
                f"a batch of {size} bytes for {self._neighbor}; options.max_message allows"
                f" {self._given.max_message}",
                cause="input",
            )
        large = size > LARGE_MESSAGE
        data = await asyncio.to_thread(joined_large, pieces) if large else joined(pieces)
        answer = await self._call(data, batch.deadline_ns, headers)
        if len(answer) > LARGE_MESSAGE:
            return await asyncio.to_thread(self._reader.read, answer, wanted, batch.rows)
        return self._reader.read(answer, wanted, batch.rows)

    async def _through_memory(
        self, batch: Batch, wanted: frozenset[str], headers: Sent, placed: Placed
    ) -> dict[str, Array] | None:
        """The outputs; None if the neighbor does not know the memory any more, and did nothing."""
        assert self._shared is not None  # noqa: S101 - the tensors are in it
        try:
            answer = await self._call(
                self._writer.in_memory(
                    ((name, self._datatypes[name], batch.shapes[name]) for name in batch.raw),
                    wanted,
                    batch.parameters,
                    placed.region.name,
                    (placed.inputs, placed.outputs),
                ),
                batch.deadline_ns,
                headers,
            )
        except grpc.aio.AioRpcError as error:
            if self._shared.ended(placed.region, error):
                return None
            raise
        except BaseException:
            self._shared.set_aside(placed.region)
            raise
        try:
            return await asyncio.to_thread(self._copied, answer, wanted, batch.rows, placed)
        finally:
            self._shared.ended(placed.region, None)

    def _copied(
        self, answer: bytes, wanted: frozenset[str], rows: int, placed: Placed
    ) -> dict[str, Array]:
        """The outputs of an answer, those in the region as copies."""
        outputs = self._reader.read(answer, wanted, rows, placed.views())
        return {
            name: array.copy() if name in placed.outputs else array
            for name, array in outputs.items()
        }

    async def _call(self, data: bytes, deadline_ns: int | None, headers: Sent) -> bytes:
        """The answer to a message. Raises `AioRpcError`."""
        answer: bytes = await self._infer(data, timeout=left_s(deadline_ns), metadata=headers)
        self._answers += 1
        return answer

    async def _share(self) -> SharedMemory | None:
        if self._given.shared_memory == "off":
            return None
        found = self._found
        return await SharedMemory.start(
            self._neighbor, found.extensions, found.metadata.outputs, lambda: self._headers.current
        )

    # Watching

    async def _discover(self) -> Discovered:
        return await discover(self._neighbor, self._context, self._given, self._headers.current)

    async def _ask(self) -> str:
        if self._headers.from_files:
            await asyncio.to_thread(self._headers.refresh)
        if tls_stamps(self._given.tls) != self._tls_stamps:
            self._watch.doubt()
        before = self._answers
        try:
            return await self._neighbor.ready(
                self._headers.current, self._given.health_timeout / SECOND
            )
        except grpc.aio.AioRpcError as error:
            # A server whose models hold it up answers late, but it does answer batches.
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self._answers > before:
                return ""
            return str(failure(str(self._neighbor), error))

    async def _changed(self) -> str:
        if tls_stamps(self._given.tls) != self._tls_stamps:
            return "the files of options.tls have changed"
        found = await self._discover()
        if found != self._found:
            here, there = self._found.metadata, found.metadata
            self._fits = (here.inputs, here.outputs) == (there.inputs, there.outputs)
            return f"{self._neighbor} serves another model {self._neighbor.shown} now"
        return ""

    def _connection_changed(self) -> None:
        if self._shared is not None:
            self._shared.forget()
        self._watch.doubt()
