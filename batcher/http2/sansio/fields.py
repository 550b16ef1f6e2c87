"""The fields of a request, and the rules for them (RFC 9113, section 8; RFC 9110, section 5).

Rules for one field are checked when it is decoded, rules for all fields of a block once for each block.
A request that breaks a rule is malformed: its stream is reset, its connection goes on.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Header: TypeAlias = tuple[str, str]
Headers: TypeAlias = tuple[Header, ...]

FIELD_BYTES = 32
"""Bytes that each field counts for beside its name and value (RFC 9113, section 6.5.2)."""

_NAME = (string.ascii_lowercase + string.digits + "!#$%&'*+-.^_`|~").encode()
_VALUE = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_WHITE = b" \t"

_NEVER = re.compile(rb"(?!)")
_RULES = {
    # Pseudo-fields of a request. Any other one is refused, those of answers included.
    # CONNECT, which has other pseudo-fields, is for proxies.
    b":method": re.compile(rb"(?!CONNECT\Z)[!#$%&'*+.^_`|~0-9A-Za-z-]+"),
    b":scheme": re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*"),
    b":path": re.compile(rb"[^ \t]+"),
    b":authority": re.compile(rb"[^ \t@]*"),
    # Fields about a connection of HTTP/1.
    b"connection": _NEVER,
    b"keep-alive": _NEVER,
    b"proxy-connection": _NEVER,
    b"transfer-encoding": _NEVER,
    b"upgrade": _NEVER,
    b"te": re.compile(rb"(?i:trailers)"),
    # What fits into 64 bits.
    b"content-length": re.compile(rb"[0-9]{1,19}"),
}
"""Patterns for the values of these fields; `_NEVER` refuses the field."""
_REQUIRED = {":method", ":scheme", ":path"}
_ONCE = {"host"}
_SAME_VALUE = {"content-length"}
"""Fields that must have the same value where they come more than once."""


class MalformedRequestError(Exception):
    """A request that breaks a rule. The text holds nothing that the client sent but known names."""


@dataclass(slots=True)
class Request:
    """The fields of a valid request."""

    headers: Headers
    size: int
    """Bytes as SETTINGS_MAX_HEADER_LIST_SIZE counts them; fields beyond that limit are not in `headers`."""
    content_length: int | None = None
    call_headers: Any = field(default=None, compare=False)
    """For the caller to keep what it has parsed: equal blocks of a connection share one
    `Request`."""


@dataclass(slots=True)
class Fields:
    """The fields of a header block."""

    headers: Headers
    size: int
    """As `Request.size`."""
    valid: bool
    """Whether each field by itself keeps the rules."""
    request: Request | None = field(default=None, compare=False)
    """What `read_request` has returned for the block."""


def is_valid_field(name: bytes, value: bytes) -> bool:
    """Whether a field by itself keeps the rules."""
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
    """The request that begins with a block. Raises `MalformedRequestError`.

    Where it has more than `most` bytes, fields are missing: the caller has to refuse it.
    """
    if fields.request is None:
        if not fields.valid:
            raise MalformedRequestError(
                "a field that is not allowed, or a value that it may not have"
            )
        length = None if fields.size > most else _content_length(fields.headers)
        fields.request = Request(fields.headers, fields.size, length)
    return fields.request


def check_trailers(fields: Fields) -> None:
    """Check a block that ends a request. Raises `MalformedRequestError`."""
    if not fields.valid or any(name.startswith(":") for name, _ in fields.headers):
        raise MalformedRequestError("a field that is not allowed in trailers")


def _content_length(headers: Headers) -> int | None:
    """Check the rules for all fields together; returns the value of `content-length`."""
    seen: dict[str, str] = {}
    regular = False
    for name, value in headers:
        if name[0] == ":":
            if regular:
                raise MalformedRequestError(f"{name} comes after a field without a colon")
            if name in seen:
                raise MalformedRequestError(f"{name} comes twice")
            seen[name] = value
        else:
            regular = True
            if name in _ONCE or name in _SAME_VALUE:
                if name in seen and (name in _ONCE or seen[name] != value):
                    raise MalformedRequestError(f"{name} comes twice")
                seen[name] = value
    if not seen.keys() >= _REQUIRED:
        raise MalformedRequestError(f"{min(_REQUIRED - seen.keys())} is missing")
    host = seen.get("host")
    if host is not None and host.lower() != seen.get(":authority", host).lower():
        raise MalformedRequestError(":authority and host differ")
    length = seen.get("content-length")
    return None if length is None else int(length)


def header_list_size(headers: Iterable[Header]) -> int:
    """Bytes of ASCII fields as SETTINGS_MAX_HEADER_LIST_SIZE counts them."""
    return sum(FIELD_BYTES + len(name) + len(value) for name, value in headers)
