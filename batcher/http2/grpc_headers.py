"""gRPC over HTTP/2 (PROTOCOL-HTTP2 of gRPC): what a call's headers say, its messages, its status."""

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
"""So many refusals are kept encoded, if text and metadata have no more characters and bytes."""

PUSHBACK = (("grpc-retry-pushback-ms", "1000"),)
"""Says when to try again, to a caller for which there is no room now."""

PREFIX_BYTES = 5
"""Whether a message is compressed, and its length."""

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
"""Names of compressions, and what tells them to zlib."""
_ACCEPTED = ("grpc-accept-encoding", ",".join(("identity", *ENCODINGS)))
_CONTENT_TYPE = re.compile(r"application/grpc($|[+;])")
_PLAIN = re.compile(r"[^ -$&-~]")
"""What a status message may not contain as it is."""


class MalformedCallError(Exception):
    """A call that cannot be answered: its HTTP status, or 200 and a status of gRPC.

    `limit` names what was too large, if that is why.
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
    """What the headers of a call say."""

    path: str
    timeout_ns: int | None
    encoding: str
    metadata: Metadata


def parse_headers(request: Request, most: int) -> CallHeaders:
    """Read a call's headers, of at most that many bytes. Raises `MalformedCallError`.

    What it says holds no value of a header: it may end up in a log.
    """
    if request.size > most:
        raise MalformedCallError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"metadata size of {request.size} bytes; at most {most}",
            limit="metadata",
        )
    if request.head is None:
        request.head = _read_head(request.headers)
    return request.head


def _read_head(headers: Headers) -> CallHeaders:
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
        raise MalformedCallError(grpc.StatusCode.INTERNAL, "gRPC calls are POST", 405)
    if _CONTENT_TYPE.match(content_type) is None:
        raise MalformedCallError(
            grpc.StatusCode.UNKNOWN, "content-type must be application/grpc", 415
        )
    if encoding != "identity" and encoding not in ENCODINGS:
        raise MalformedCallError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"that grpc-encoding is not supported; supported: {_ACCEPTED[1]}",
        )
    return CallHeaders(pseudo[":path"], timeout_ns, encoding, tuple(metadata))


def _timeout_ns(text: str) -> int:
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise MalformedCallError(
            grpc.StatusCode.INVALID_ARGUMENT, "grpc-timeout is no number of 8 digits with a unit"
        )
    return int(found[1]) * _UNITS_NS[found[2]]


def _binary(name: str, text: str) -> Iterable[bytes]:
    for part in text.split(","):
        try:
            yield base64.b64decode(part + "=" * (-len(part) % 4), validate=True)
        except ValueError:
            raise MalformedCallError(
                grpc.StatusCode.INVALID_ARGUMENT, f"metadata {name[:40]} is not base64"
            ) from None


def too_large(size: int, most: int) -> MalformedCallError:
    """What a message is answered that is larger than allowed."""
    return MalformedCallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"Received message larger than max ({size} vs. {most})",
        limit="message",
    )


def no_room(size: int, limit: int) -> MalformedCallError:
    """What a call is answered for whose messages `Buffers` has no room."""
    return MalformedCallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"no room for {size} bytes: requests and answers hold {limit} bytes (server.max_buffered)",
        metadata=PUSHBACK,
    )


def status(
    code: grpc.StatusCode, message: str, metadata: Sequence[tuple[str, str | bytes]]
) -> list[Header]:
    """The fields that end a call."""
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
"""The block of headers before the first message of an answer."""
OK_TRAILERS = encode((("grpc-status", "0"),))
"""The block of trailers of a call that was answered."""


def trailers_only(fields: Iterable[Header], http: int = 200) -> bytes:
    """The block of a call that ends without a message."""
    return encode(((":status", str(http)), CONTENT_TYPE, _ACCEPTED, *fields))


def refusal(code: grpc.StatusCode, message: str, metadata: Metadata) -> bytes:
    """The same with this status.

    Under overload the same few are sent again and again, when time is shortest. Long ones are not
    kept: a client may have a say in their text.
    """
    if len(message) + sum([len(value) for _, value in metadata]) > MAX_CACHED_CHARACTERS:
        return trailers_only(status(code, message, metadata))
    return _kept_refusal(code, message, metadata)


@lru_cache(CACHED_REFUSALS)
def _kept_refusal(code: grpc.StatusCode, message: str, metadata: Metadata) -> bytes:
    return trailers_only(status(code, message, metadata))
