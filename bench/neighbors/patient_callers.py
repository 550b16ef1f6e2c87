"""Callers that end no call themselves: when a call ends is the server's doing alone.

gRPC's own clients end a call at its deadline whatever the server does. These announce the deadline
(`grpc-timeout`) and wait, so that a server which forgets a request is found out. HTTP/2 is the library
`h2`'s. Every request has its own values, and what comes back is held against them.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import unquote

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np

from batcher.protocol import INFERENCE, inference, methods

COLUMNS = 16
UNARY = methods(INFERENCE)["ModelInfer"].path
STREAM = methods(INFERENCE)["ModelStreamInfer"].path
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
WINDOW = 2**24
ON_STREAM = "on the stream"
"""The status of an answer on a stream that failed: such an answer has a text and no code."""


@dataclass(slots=True)
class Ended:
    """How one request ended."""

    place: int
    """Its number, from which its values follow."""
    deadline_s: float | None
    sent_s: float
    """On the monotonic clock."""
    ended_s: float
    status: str
    """The name of the gRPC status, or `ON_STREAM`; `OK` if it was answered."""
    text: str = ""
    pushback: str | None = None
    right: bool = False
    """Whether the answer is the one to its own values."""
    answers: int = 1
    """How many answers came for it."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_s - self.sent_s


def values(place: int, rows: int) -> np.ndarray:
    """`X` of a request: no two requests share a value."""
    first = (place % 2**18) * 32
    return (np.arange(rows * COLUMNS, dtype="<f4").reshape(rows, COLUMNS) / 512) + first


def request(model: str, place: int, rows: int) -> bytes:
    """A request with its own values, and its number as its id."""
    message = inference.ModelInferRequest(model_name=model, id=str(place))
    message.inputs.add(name="X", datatype="FP32", shape=[rows, COLUMNS])
    message.raw_input_contents.append(values(place, rows).tobytes())
    return message.SerializeToString()


def is_right(answer: inference.ModelInferResponse, place: int, rows: int) -> bool:
    """Whether `Y` is exactly twice the request's own `X`: a doubled float is exact."""
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=False):
        if output.name == "Y":
            got = np.frombuffer(raw, "<f4")
            return answer.id == str(place) and np.array_equal(got, 2 * values(place, rows).ravel())
    return False


@dataclass(slots=True)
class _Stream:
    """A call as HTTP/2 sees it."""

    data: bytearray = field(default_factory=bytearray)
    headers: dict[str, str] = field(default_factory=dict)
    over: asyncio.Future[None] = field(default_factory=asyncio.Future)
    waiting: dict[str, asyncio.Future[str | None]] = field(default_factory=dict)
    """Requests on the stream that have no answer yet, by id."""
    came: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Answers on the stream, by id."""
    answers: dict[str, inference.ModelInferResponse] = field(default_factory=dict)


class Caller(asyncio.Protocol):
    """One connection. Use it as an async context manager: `async with Caller("host:port", "m")`."""

    def __init__(self, address: str, model: str) -> None:
        self._address, self._model = address, model
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._streams: dict[int, _Stream] = {}
        self._stream = 0
        self._transport: asyncio.Transport | None = None

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        await asyncio.get_running_loop().create_connection(lambda: self, host, int(port))
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, place: int, rows: int = 1, deadline_s: float | None = None) -> Ended:
        """One unary call."""
        sent_s = time.monotonic()
        number, stream = self._begin(UNARY, deadline_s)
        self._message(number, request(self._model, place, rows), end=True)
        await stream.over
        ended_s = time.monotonic()
        code = stream.headers.get("grpc-status", "")
        status = NAMES.get(int(code), code) if code.isdecimal() else code or "no status"
        ended = Ended(place, deadline_s, sent_s, ended_s, status)
        ended.text = unquote(stream.headers.get("grpc-message", ""))
        ended.pushback = stream.headers.get("grpc-retry-pushback-ms")
        messages = list(_cut(stream.data))
        ended.answers = len(messages) if status == "OK" else 1 + len(messages)
        if status == "OK" and len(messages) == 1:
            answer = inference.ModelInferResponse.FromString(messages[0])
            ended.right = is_right(answer, place, rows)
        return ended

    async def ask_on_stream(self, place: int, rows: int = 1) -> Ended:
        """One request on the connection's stream, which is opened by the first."""
        sent_s = time.monotonic()
        if not self._stream:
            self._stream, _ = self._begin(STREAM, None, ("x-batcher-stream-order", "any"))
        stream, name = self._streams[self._stream], str(place)
        waiting = stream.waiting[name] = asyncio.get_running_loop().create_future()
        self._message(self._stream, request(self._model, place, rows), end=False)
        text = await waiting
        status = "OK" if text is None else ON_STREAM
        ended = Ended(place, None, sent_s, time.monotonic(), status, text or "")
        if text is None:
            ended.right = is_right(stream.answers.pop(name), place, rows)
        return ended

    async def answered_twice(self) -> list[str]:
        """Close the stream, wait for its end, and name requests with another number of answers than one."""
        if not self._stream:
            return []
        stream = self._streams[self._stream]
        self._h2.end_stream(self._stream)
        self._flush()
        await stream.over
        return [name for name, count in stream.came.items() if count != 1]

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the connection preface."""
        self._transport = cast("asyncio.Transport", transport)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand each event to its call."""
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self._streams[event.stream_id].headers.update(dict(event.headers or ()))
                case h2.events.DataReceived():
                    self._data(event)
                case h2.events.StreamEnded() | h2.events.StreamReset():
                    self._over(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call ends without a status."""
        del exc
        self._transport = None
        for stream in self._streams.values():
            self._end(stream, "connection lost")

    def _begin(
        self, path: str, deadline_s: float | None, *more: tuple[str, str]
    ) -> tuple[int, _Stream]:
        number = self._h2.get_next_available_stream_id()
        headers = [
            *((":method", "POST"), (":scheme", "http"), (":path", path)),
            *((":authority", self._address), ("te", "trailers")),
            ("content-type", "application/grpc"),
            *more,
        ]
        if deadline_s is not None:
            headers.append(("grpc-timeout", f"{round(deadline_s * 1e6)}u"))
        self._h2.send_headers(number, headers)
        stream = self._streams[number] = _Stream()
        return number, stream

    def _message(self, number: int, message: bytes, *, end: bool) -> None:
        """Requests here are small: they always fit into the window."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        self._h2.send_data(number, framed, end_stream=end)
        self._flush()

    def _flush(self) -> None:
        out = self._h2.data_to_send()
        if out and self._transport is not None:
            self._transport.write(out)

    def _data(self, event: Any) -> None:
        stream = self._streams[event.stream_id]
        stream.data += event.data
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if event.stream_id != self._stream:
            return
        for message in _cut(stream.data):
            answer = inference.ModelStreamInferResponse.FromString(message)
            name = answer.infer_response.id
            stream.came[name] += 1
            stream.answers[name] = answer.infer_response
            waiting = stream.waiting.pop(name, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer.error_message or None)

    def _over(self, event: h2.events.StreamEnded | h2.events.StreamReset) -> None:
        stream = self._streams[event.stream_id]
        self._end(stream, "the stream ended")
        if event.stream_id != self._stream:
            del self._streams[event.stream_id]

    def _end(self, stream: _Stream, why: str) -> None:
        for waiting in stream.waiting.values():
            if not waiting.done():
                waiting.set_result(why)
        stream.waiting.clear()
        if not stream.over.done():
            stream.over.set_result(None)


def _cut(data: bytearray) -> list[bytes]:
    """The whole gRPC messages at the start of `data`, which are taken out of it."""
    found = []
    while len(data) >= 5:
        end = 5 + int.from_bytes(data[1:5], "big")
        if len(data) < end:
            break
        found.append(bytes(data[5:end]))
        del data[:end]
    return found
