"""`ModelInfer` and `ModelStreamInfer`: the first and the last step of a request.

Both take and return bytes: a message that cannot be parsed gets an INVALID_ARGUMENT that says why,
and an answer is serialized once, straight from its tensors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc import aio

from batcher.buffers import LARGE_ANSWER, Buffers
from batcher.clock import SECOND, Clock
from batcher.config import ServerConfig
from batcher.errors import AnswerLoss, AnswerTooLarge, Draining, InvalidRequest, RequestError
from batcher.http2.call import Call
from batcher.http2.grpc_headers import Metadata
from batcher.offload import low_priority_pool
from batcher.runtime.request import Arrival, InferenceReply, InferenceRequest
from batcher.server import messages
from batcher.server.calls import Context, abort
from batcher.server.messages.classification import Classes
from batcher.server.messages.parameters import MAX_PRIORITY, MAX_TENANT, MAX_WAIT_NS
from batcher.server.messages.upstream import upstream_ns
from batcher.server.messages.wire import WireRequest
from batcher.server.services.load_trailers import LoadTrailers
from batcher.server.services.streams import (
    Link,
    StreamCharges,
    StreamPacer,
    StreamPump,
    StreamTurns,
    no_room,
)
from batcher.server.status import Style, to_status
from batcher.service import RETRY_DRAINING_NS, Batcher, Exchange
from batcher.telemetry import AdmissionReason, ReplyReason, Stamps
from batcher.telemetry.budget import hops_of
from batcher.telemetry.families import Stage
from batcher.telemetry.load import FORMAT_KEY
from batcher.telemetry.tracing.log_fields import failed_fields

log = logging.getLogger(__name__)

TENANT_KEYS = ("x-batcher-tenant", "x-llm-d-inference-fairness-id")
PRIORITY_KEY = "x-batcher-priority"
PRIORITY_DIGITS = 20
"""Digits of the largest number that the request parameter `priority` can hold."""

TIMINGS_KEY = "x-batcher-timings"
STREAM_ORDER_KEY = "x-batcher-stream-order"

INTERNAL_ERROR = "internal error while answering a request; the log of the server has details"
"""The message of a defect of batcher: the caller learns no more, the log has the traceback."""

_OWN = ("x-", FORMAT_KEY)

CallMetadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""All metadata of a call, as the transport gives it."""

Made = TypeVar("Made")


class InferenceServicer:
    """Answers inference calls of all listeners."""

    def __init__(
        self,
        batcher: Batcher,
        clock: Clock,
        config: ServerConfig,
        buffers: Buffers,
        load: LoadTrailers,
    ) -> None:
        self._batcher = batcher
        self._load = load
        self._buffers = buffers
        # The builtin transport charges requests and answers to `buffers` by itself.
        self._charging = config.transport == "builtin"
        self._clock = clock
        self._style: Style = config.status_codes
        self._max_in_flight = config.max_in_flight_per_stream
        self._max_answer = config.max_message - messages.STREAM_WRAPPING
        self._streams: set[StreamPump] = set()
        self._streams_end = False
        self._pacer = StreamPacer()
        self._no_streams = asyncio.Event()
        # One thread: each thread that runs Python takes time from the event loop.
        self._large_messages = low_priority_pool(1, "large-messages")

    @property
    def unary(self) -> Callable[[bytes, Any], Coroutine[Any, Any, bytes | memoryview | None]]:
        """The handler of `ModelInfer` for the transport; that of grpcio writes its answer by itself."""
        return self.model_infer if self._charging else self.model_infer_written

    async def model_infer_written(self, data: bytes, context: Context) -> None:
        """`model_infer` for grpcio, which tells only of what a handler writes by itself that it was sent.

        The request is charged while it is answered.
        """
        size = len(data)
        if not self._buffers.reserve(size):
            load = self._load_of(context)
            await abort(context, no_room(self._buffers, size), self._style, metadata=load)
        exchange = self._batcher.begin(self._clock())
        loss: AnswerLoss | None = AnswerLoss.LEFT
        try:
            await context.write(await self._answer(data, context, exchange))
            loss = None
        except aio.AbortError:
            loss = None  # its status was sent
            raise
        except aio.InternalError:
            raise asyncio.CancelledError from None  # what grpcio raises where the caller has left
        finally:
            exchange.ended(loss)
            self._buffers.release(size)
            del context  # as in `abort`

    async def model_infer(self, data: bytes, context: Call) -> bytes | memoryview:
        """One request, one answer, by way of `Batcher.answer`."""
        exchange = self._batcher.begin(self._clock())
        context.tell_end(exchange.ended)
        return await self._answer(data, context, exchange)

    async def _answer(
        self, data: bytes, context: Context | Call, exchange: Exchange
    ) -> bytes | memoryview:
        deadline_ns = _deadline(context, exchange.arrival_ns)
        metadata = context.invocation_metadata() or ()
        own = _own(metadata)
        if own:
            exchange.upstream_ns = upstream_ns(own, time.time_ns)
        request_id = ""
        wire: WireRequest | None = None
        try:
            wire = await self._parse(data, exchange, metadata)
            request_id = wire.id
            answer, stamps = await self._infer(wire, exchange, deadline_ns, own, metadata)
        except RequestError as error:
            load = self._load.of_call(own, wire)
            await abort(context, error, self._style, request_id=request_id, metadata=load)
        except Exception:
            log.exception(INTERNAL_ERROR, extra=failed_fields(exchange.about))
            load = self._load.of_call(own, wire)
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_ERROR, load)
        else:
            if own or self._load.always:
                trailers = self._load.of_call(own, wire)
                if TIMINGS_KEY in own:
                    trailers = (*timings(stamps, self._clock(), exchange), *trailers)
                context.set_trailing_metadata(trailers)
            return answer
        finally:
            del context  # as in `abort`
        raise AssertionError("abort raises")

    async def model_stream_infer(self, requests: Any, context: Context) -> None:
        """Requests and answers on one call, many in flight.

        Answers keep the order of their requests unless the caller's metadata says
        `x-batcher-stream-order: any`. An error is an answer that carries `error_message`; the
        stream goes on.
        """
        try:
            if self._batcher.draining or self._streams_end or await self._pumped(context):
                await abort(context, _draining(), self._style, metadata=self._load_of(context))
            context.set_trailing_metadata(self._load_of(context))
        except (aio.AbortError, aio.UsageError):
            raise
        except aio.InternalError:
            raise asyncio.CancelledError from None  # as in `model_infer_written`
        except Exception:
            log.exception(INTERNAL_ERROR)
            load = self._load_of(context)
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_ERROR, load)
        finally:
            del context, requests  # as in `abort`; both know the call

    def _load_of(self, context: Context) -> Metadata:
        """The load for the trailing metadata of a stream, or of a request that was not read."""
        return self._load.of_call(_own(context.invocation_metadata() or ()), None)

    async def _pumped(self, context: Context) -> bool:
        """Answer the requests of a stream; returns whether `end_streams` ended it."""
        deadline_ns = _deadline(context, self._clock())
        metadata = context.invocation_metadata() or ()
        own = _own(metadata)

        turns = StreamTurns()

        async def answer(data: bytes) -> tuple[bytes | memoryview, Exchange]:
            exchange = self._batcher.begin(self._clock())
            request_id = ""
            link = turns.enter() if len(data) > messages.LARGE_MESSAGE else None
            try:
                wire = await self._parse(data, exchange, metadata, stream=True)
                request_id = wire.id
                response, _ = await self._infer(
                    wire, exchange, deadline_ns, own, metadata, turns=turns, link=link
                )
            except RequestError as error:
                message = to_status(error, self._style, request_id=request_id).message
            except Exception:
                log.exception(INTERNAL_ERROR, extra=failed_fields(exchange.about))
                message = INTERNAL_ERROR
            except BaseException:
                exchange.ended(AnswerLoss.LEFT)
                raise
            else:
                return response, exchange
            finally:
                if link is not None:
                    turns.leave(link)
            return messages.stream_error(message, request_id=request_id), exchange

        ordered = own.get(STREAM_ORDER_KEY) != "any"
        charges = StreamCharges(self._buffers, transport_charges=self._charging)
        pump = StreamPump(
            context, answer, charges, self._max_in_flight, self._pacer, ordered=ordered
        )
        self._streams.add(pump)
        try:
            await pump.run()
        finally:
            self._streams.discard(pump)
            if not self._streams:
                self._no_streams.set()
        return pump.ended

    def end_streams(self) -> None:
        """Read no more requests from open streams; each ends once it has answered. New ones are refused."""
        self._streams_end = True
        for pump in self._streams:
            pump.end()

    async def streams_ended(self) -> None:
        """Wait until no stream is open."""
        while self._streams:
            self._no_streams.clear()
            await self._no_streams.wait()

    def close(self) -> None:
        """End the thread of large messages."""
        self._large_messages.shutdown(wait=False, cancel_futures=True)

    async def _off_loop(self, work: Callable[[], Made]) -> Made:
        """The result of work that would block the event loop, from the thread for large messages."""
        return await asyncio.get_running_loop().run_in_executor(self._large_messages, work)

    async def _parse(
        self, data: bytes, exchange: Exchange, metadata: CallMetadata, *, stream: bool = False
    ) -> WireRequest:
        try:
            if len(data) <= messages.LARGE_MESSAGE:
                return messages.parse(data)
            return await self._off_loop(partial(messages.parse, data))
        except InvalidRequest:
            came = Arrival(exchange.arrival_ns, metadata=metadata, stream=stream)
            self._batcher.refused(exchange, "", "", came, AdmissionReason.INVALID)
            raise
        except Exception:
            came = Arrival(exchange.arrival_ns, metadata=metadata, stream=stream)
            self._batcher.refused(exchange, "", "", came, ReplyReason.INTERNAL)
            raise

    async def _infer(
        self,
        wire: WireRequest,
        exchange: Exchange,
        deadline_ns: int | None,
        own: dict[str, str],
        metadata: CallMetadata,
        *,
        turns: StreamTurns | None = None,
        link: Link | None = None,
    ) -> tuple[bytes | memoryview, Stamps]:
        """`own` is the part of the `metadata` that is for this server; `turns` are those of a stream."""
        raw, stream = self._batcher.takes_raw(wire.model, wire.version), turns is not None
        arrival_ns = exchange.arrival_ns
        try:
            if len(wire.data) <= messages.LARGE_MESSAGE:
                request = _read(
                    wire, arrival_ns, deadline_ns, own, metadata, raw=raw, stream=stream
                )
            else:
                read = partial(_read, wire, arrival_ns, deadline_ns, own, metadata)
                request = await self._off_loop(partial(read, raw=raw, stream=stream))
        except Exception as error:
            refused = isinstance(error, RequestError)
            reason = AdmissionReason.INVALID if refused else ReplyReason.INTERNAL
            tenant = next((own[key] for key in TENANT_KEYS if key in own), "")
            came = Arrival(arrival_ns, tenant, metadata, stream, wire.id)
            self._batcher.refused(exchange, wire.model, wire.version, came, reason)
            raise
        if turns is not None:
            if request.sequence is not None:
                await turns.turn(link)
            elif link is not None:
                turns.leave(link)
        freed = len(wire.data) if stream else 0
        encode = partial(self._encode, request=request, stream=stream, freed=freed)
        return await self._batcher.answer(request, encode, exchange)

    def _classes(self, reply: InferenceReply, request: InferenceRequest) -> dict[str, Classes]:
        model = self._batcher.models.find(reply.model, reply.version)
        known = {name: labels.names for name, labels in model.labels.items()}
        return {
            name: Classes(count, known.get(name, ()))
            for name, count in (request.classifications or {}).items()
        }

    async def _encode(
        self, reply: InferenceReply, *, request: InferenceRequest, stream: bool, freed: int
    ) -> tuple[bytes | memoryview, Stamps]:
        """The serialized answer, for a stream or for a call of its own.

        `freed` are the bytes of its request that are released when the answer is charged.
        """
        asked = None if request.classifications is None else self._classes(reply, request)
        if not messages.takes_long(reply, asked):
            parts = messages.response_parts(reply, classifications=asked)
        else:
            make = partial(messages.response_parts, reply, classifications=asked)
            parts = await self._off_loop(make)
        nbytes = sum(map(len, parts))
        # gRPC would refuse it too, but would end a whole stream for it.
        if nbytes > self._max_answer:
            raise AnswerTooLarge(
                f"{request.model}: the answer has {nbytes} bytes, at most {self._max_answer}"
                " (server.max_message) can be sent; send fewer rows or request fewer outputs"
            )
        if stream:
            parts = messages.stream_parts(parts, nbytes)
        if nbytes <= messages.LARGE_MESSAGE:
            answer: bytes | memoryview = b"".join(parts)
        else:
            answer = await self._off_loop(partial(messages.joined, parts))
        # Checked last: nothing else is charged between this and the charge for the answer.
        size, buffers = len(answer), self._buffers
        full = stream and not buffers.has_room(size - freed)
        if self._charging and size > LARGE_ANSWER and not full:
            full = not buffers.has_room_for_large(size, freed)
        if full:
            raise no_room(buffers, size)
        # grpcio takes nothing but bytes.
        return answer if self._charging else bytes(answer), reply.stamps


def timings(stamps: Stamps, now_ns: int, exchange: Exchange) -> tuple[tuple[str, str], ...]:
    """A request's stages in microseconds, as trailing metadata; `reply` up to now, before it is sent.

    What the caller claims to have spent goes with it, and the hop that makes the answer late.
    """
    spent_ns = (
        stamps.enqueued_ns - stamps.arrival_ns,
        stamps.dispatched_ns - stamps.enqueued_ns,
        stamps.execute_start_ns - stamps.dispatched_ns,
        stamps.execute_end_ns - stamps.execute_start_ns,
        stamps.settled_ns - stamps.execute_end_ns,
        now_ns - stamps.settled_ns,
    )
    parts = [f"{stage}={ns // 1000}" for stage, ns in zip(Stage, spent_ns, strict=True)]
    parts.append(f"batch_rows={stamps.batch_rows}")
    claimed_ns, budget = exchange.claimed_ns, exchange.budget
    if claimed_ns is not None:
        parts.append(f"upstream={claimed_ns // 1000}")
    hop = None if budget is None else budget.late_hop(hops_of(spent_ns, claimed_ns))
    if hop is not None:
        parts.append(f"late={hop}")
    return ((TIMINGS_KEY, ",".join(parts)),)


def _draining() -> Draining:
    return Draining(
        "the server is shutting down; retry on another server", retry_after_ns=RETRY_DRAINING_NS
    )


def _read(
    wire: WireRequest,
    arrival_ns: int,
    deadline_ns: int | None,
    own: dict[str, str],
    metadata: CallMetadata,
    *,
    raw: bool,
    stream: bool,
) -> InferenceRequest:
    return messages.to_request(
        wire,
        arrival_ns=arrival_ns,
        deadline_ns=deadline_ns,
        tenant=_tenant(own),
        priority=_priority(own),
        metadata=metadata,
        raw=raw,
        stream=stream,
    )


def _deadline(context: Context | Call, now_ns: int) -> int | None:
    """The caller's deadline in monotonic nanoseconds, at most a year ahead; None without one."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return None
    return now_ns + int(min(remaining_s, MAX_WAIT_NS / SECOND) * SECOND)


def _own(metadata: CallMetadata) -> dict[str, str]:
    """The caller's metadata that may matter here: keys that begin with `x-`, and ORCA's, as text."""
    return {
        key: value for key, value in metadata if key.startswith(_OWN) and isinstance(value, str)
    }


def _tenant(metadata: dict[str, str]) -> str:
    for key in TENANT_KEYS if metadata else ():
        if key in metadata:
            if len(metadata[key]) > MAX_TENANT:
                raise InvalidRequest(
                    f"metadata {key} may have at most {MAX_TENANT} characters, got {len(metadata[key])}"
                )
            return metadata[key]
    return ""


def _priority(metadata: dict[str, str]) -> int:
    text = metadata.get(PRIORITY_KEY) if metadata else None
    if text is None:
        return 0
    if not text.isdecimal() or len(text) > PRIORITY_DIGITS:
        raise InvalidRequest(
            f"metadata {PRIORITY_KEY} must be a whole number of at most {PRIORITY_DIGITS} digits"
        )
    return min(int(text), MAX_PRIORITY)
