"""gRPC over HTTP/2 (gRPC's PROTOCOL-HTTP2.md): headers of calls, status and trailers, errors of callers."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import grpc

from batcher.clock import MICROSECOND, MILLISECOND, SECOND
from batcher.http2.sansio.fields import Header, Headers, Request
from batcher.http2.sansio.hpack import encode

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

CONTENT_TYPE = ("content-type", "application/grpc")
CACHED_REFUSALS, MAX_CACHED_CHARACTERS = 1024, 2048
"""Refusals that are kept encoded, and the most characters of text and metadata that one of them may have."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
PUSHBACK = ((PUSHBACK_KEY, "1000"),)
"""Trailing metadata by which gRPC's retry policies wait for a second before they try again."""
NO_RETRY = ((PUSHBACK_KEY, "-1"),)
"""Trailing metadata by which gRPC's retry policies do not try again."""
INTERNAL_ERROR = "internal error while answering a call; the log of the server has details"
"""The message of a defect of the server or a handler: the caller learns no more, the log has the traceback."""

PREFIX_BYTES = 5
"""The prefix of each message: whether it is compressed (1 byte), and its length (4)."""

_UNITS_NS = {
    "H": 3600 * SECOND,
    "M": 60 * SECOND,
    "S": SECOND,
    "m": MILLISECOND,
    "u": MICROSECOND,
    "n": 1,
}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
ENCODINGS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
"""The compressions that are read, and zlib's `wbits` for each."""
_ACCEPTED = ("grpc-accept-encoding", ",".join(("identity", *ENCODINGS)))
_CONTENT_TYPE = re.compile(r"application/grpc($|[+;])")
_PLAIN = re.compile(r"[^ -$&-~]")
"""Characters of a status message that are sent percent-encoded."""


class MalformedCallError(Exception):
    """A call that cannot be answered, with the status that it gets.

    `http` is the HTTP status where it is no call of gRPC. `limit` names what was too large, if anything
    was. The text holds nothing that the caller sent but names and sizes: it may be logged.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        text: str,
        http: int = 200,
        *,
        limit: Literal["", "message", "metadata"] = "",
        metadata: Metadata = (),
    ) -> None:
        super().__init__(text)
        self.code = code
        self.http = http
        self.limit = limit
        self.metadata = metadata


@dataclass(frozen=True, slots=True)
class CallHeaders:
    """The headers of a call, parsed."""

    path: str
    timeout_ns: int | None
    encoding: str
    metadata: Metadata


def parse_headers(request: Request, most: int) -> CallHeaders:
    """Read a call's headers, of `most` bytes at most. Raises `MalformedCallError`."""
    if request.size > most:
        raise MalformedCallError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"metadata size is {request.size} bytes, at most {most} (fixed limit); send less metadata",
            limit="metadata",
            metadata=NO_RETRY,
        )
    headers: CallHeaders | None = request.call_headers
    if headers is None:
        headers = request.call_headers = _parse(request.headers)
    return headers


def _parse(headers: Headers) -> CallHeaders:
    pseudo: dict[str, str] = {}
    timeout_ns, encoding, content_type = None, "identity", ""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name.startswith(":"):
            pseudo[name] = value
        elif name == "content-type":
            content_type = value
        elif name == "grpc-timeout":
            timeout_ns = _timeout_ns(value)
        elif name == "grpc-encoding":
            encoding = value
        elif name.endswith("-bin"):
            metadata += ((name, part) for part in _binary(name, value))
        elif name != "te" and not name.startswith("grpc-"):
            metadata.append((name, value))
    if pseudo[":method"] != "POST":
        raise MalformedCallError(grpc.StatusCode.INTERNAL, "a gRPC call must be a POST", 405)
    if _CONTENT_TYPE.match(content_type) is None:
        raise MalformedCallError(
            grpc.StatusCode.UNKNOWN, "content-type must be application/grpc", 415
        )
    if encoding != "identity" and encoding not in ENCODINGS:
        raise MalformedCallError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"the grpc-encoding of the call is not supported; supported: {_ACCEPTED[1]}",
        )
    return CallHeaders(pseudo[":path"], timeout_ns, encoding, tuple(metadata))


def _timeout_ns(text: str) -> int:
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise MalformedCallError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "grpc-timeout must be up to 8 digits and one of the units H, M, S, m, u, n",
        )
    return int(found[1]) * _UNITS_NS[found[2]]


def _binary(name: str, text: str) -> Iterable[bytes]:
    for part in text.split(","):
        try:
            yield base64.b64decode(part + "=" * (-len(part) % 4), validate=True)
        except ValueError:
            raise MalformedCallError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"metadata {name[:40]} must be base64, as its name ends in -bin",
            ) from None


def too_large(size: int, most: int) -> MalformedCallError:
    """The error for a message that is larger than allowed, beginning as grpcio's."""
    return MalformedCallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"Received message larger than max ({size} vs. {most}) (server.max_message); send fewer rows",
        limit="message",
        metadata=NO_RETRY,
    )


def no_room(size: int, limit: int) -> MalformedCallError:
    """The error for a call whose messages `Buffers` has no room for."""
    return MalformedCallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"no room for {size} bytes: requests and answers together may take {limit} bytes"
        " (server.max_buffered); try again later",
        metadata=PUSHBACK,
    )


def status(
    code: grpc.StatusCode, message: str, metadata: Sequence[tuple[str, str | bytes]]
) -> list[Header]:
    """The trailers' fields of that status."""
    fields = [("grpc-status", str(code.value[0]))]
    if message:
        fields.append(("grpc-message", _PLAIN.sub(_percent, message)))
    for name, value in metadata:
        if isinstance(value, bytes):
            fields.append((name, base64.b64encode(value).rstrip(b"=").decode()))
        else:
            fields.append((name, value))
    return fields


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="replace"))


RESPONSE_HEADERS = encode(((":status", "200"), CONTENT_TYPE, _ACCEPTED))
"""The header block before the first message of an answer."""
OK_TRAILERS = encode((("grpc-status", "0"),))
"""The trailers' block of a call that was answered."""


def trailers_only(fields: Iterable[Header], http: int = 200) -> bytes:
    """The one header block of a call that ends without a message (Trailers-Only)."""
    return encode(((":status", str(http)), CONTENT_TYPE, _ACCEPTED, *fields))


def refusal(code: grpc.StatusCode, message: str, metadata: Metadata) -> bytes:
    """The same with a status, from a cache: under overload the same few are sent again and again.

    Long ones are not kept: a caller may have influence on their text.
    """
    if len(message) + sum([len(value) for _, value in metadata]) > MAX_CACHED_CHARACTERS:
        return trailers_only(status(code, message, metadata))
    return _cached_refusal(code, message, metadata)


@lru_cache(CACHED_REFUSALS)
def _cached_refusal(code: grpc.StatusCode, message: str, metadata: Metadata) -> bytes:
    return trailers_only(status(code, message, metadata))
