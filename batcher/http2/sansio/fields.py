"""The fields of a request, and the rules they keep (RFC 9113, section 8; RFC 9110, section 5).

What a field says alone is judged once, when it is decoded; what the fields say together, once for
each block. A request that breaks a rule is malformed: its stream is reset, its connection goes on.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from batcher.http2.grpc_headers import CallHeaders

Header: TypeAlias = tuple[str, str]
Headers: TypeAlias = tuple[Header, ...]

FIELD_BYTES = 32
"""What each field counts for beside its text (RFC 9113, section 6.5.2)."""

_NAME = (string.ascii_lowercase + string.digits + "!#$%&'*+-.^_`|~").encode()
_VALUE = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_WHITE = b" \t"

_NEVER = re.compile(rb"(?!)")
_RULES = {
    # Pseudo-fields of a request. Every other one is unknown here, those of answers among them.
    # This is no proxy: a request of CONNECT has other fields.
    b":method": re.compile(rb"(?!CONNECT\Z)[!#$%&'*+.^_`|~0-9A-Za-z-]+"),
    b":scheme": re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*"),
    b":path": re.compile(rb"[^ \t]+"),
    b":authority": re.compile(rb"[^ \t@]*"),
    # Fields of one connection of HTTP/1.
    b"connection": _NEVER,
    b"keep-alive": _NEVER,
    b"proxy-connection": _NEVER,
    b"transfer-encoding": _NEVER,
    b"upgrade": _NEVER,
    b"te": re.compile(rb"(?i:trailers)"),
    # Of 64 bits, as everywhere.
    b"content-length": re.compile(rb"[0-9]{1,19}"),
}
"""What the values of these names look like."""
_REQUIRED = {":method", ":scheme", ":path"}
_ONCE = {"host"}
_ALIKE = {"content-length"}
"""Fields that say the same where they come more than once."""


class MalformedRequestError(Exception):
    """A request that breaks a rule; the text holds nothing of it but names that are known."""


@dataclass(slots=True)
class Request:
    """A request's fields, which keep the rules."""

    headers: Headers
    size: int
    """Their bytes as settings count them; `headers` leaves out what is beyond the limit."""
    content_length: int | None = None
    head: CallHeaders | None = field(default=None, compare=False)
    """What gRPC reads in them, once it has: equal blocks of a connection are read once."""


@dataclass(slots=True)
class Fields:
    """What a header block holds."""

    headers: Headers
    size: int
    """Their bytes as settings count them; `headers` leaves out what is beyond the limit."""
    sound: bool
    """Whether each keeps the rules."""
    request: Request | None = field(default=None, compare=False)
    """The same as a request, once it was read as one."""


def is_valid_field(name: bytes, value: bytes) -> bool:
    """Whether a field keeps the rules that are its own."""
    rule = _RULES.get(name)
    if rule is not None:
        if rule.fullmatch(value) is None:
            return False
    elif not name or name.translate(None, _NAME):
        return False
    if not value:
        return True
    return not value.translate(None, _VALUE) and value[0] not in _WHITE and value[-1] not in _WHITE


def read_request(fields: Fields, most: int) -> Request:
    """A block as the beginning of a request. Raises `MalformedRequestError`.

    Of one with more bytes than `most` not all fields are there: the call is to be refused.
    """
    if fields.request is None:
        if not fields.sound:
            raise MalformedRequestError("a field that is not allowed, or has no such value")
        length = None if fields.size > most else _content_length(fields.headers)
        fields.request = Request(fields.headers, fields.size, length)
    return fields.request


def check_trailers(fields: Fields) -> None:
    """A block as the end of a request. Raises `MalformedRequestError`."""
    if not fields.sound or any(name.startswith(":") for name, _ in fields.headers):
        raise MalformedRequestError("trailers that are not allowed")


def _content_length(headers: Headers) -> int | None:
    """The rules of a whole request, and how long it says it is."""
    seen: dict[str, str] = {}
    regular = False
    for name, value in headers:
        if name[0] == ":":
            if regular:
                raise MalformedRequestError(f"{name} comes too late")
            if name in seen:
                raise MalformedRequestError(f"{name} comes twice")
            seen[name] = value
        else:
            regular = True
            if name in _ONCE or name in _ALIKE:
                if name in seen and (name in _ONCE or seen[name] != value):
                    raise MalformedRequestError(f"{name} comes twice")
                seen[name] = value
    if not seen.keys() >= _REQUIRED:
        raise MalformedRequestError(f"without {min(_REQUIRED - seen.keys())}")
    host = seen.get("host")
    if host is not None and host.lower() != seen.get(":authority", host).lower():
        raise MalformedRequestError(":authority and host disagree")
    length = seen.get("content-length")
    return None if length is None else int(length)


def header_list_size(headers: Iterable[Header]) -> int:
    """Their size as settings count it, where all is ASCII."""
    return sum(FIELD_BYTES + len(name) + len(value) for name, value in headers)
