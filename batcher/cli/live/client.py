"""Reads the events of `/v1/live` over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from batcher.errors import InputError, on_one_line

SILENCE_S: Final = 5.0
"""Seconds without a byte after which the connection is given up: five events are missing by then."""

MAX_LINE_BYTES: Final = 64 << 20
"""Bytes of one line: an event with the history of some ten thousand models."""

_UNIX: Final = "unix:"

_NUMBER: Final = re.compile(rb"[0-9]{1,15}")


class LiveError(InputError):
    """There are no events at this address, and the message says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its number, and its values (docs/live-view.md). A first one has the history."""

    number: int
    values: dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SILENCE_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def read_address(text: str) -> str:
    """`host:port` or `unix:/path`, of what a person has typed or copied from a browser.

    Raises `LiveError` where it is neither.
    """
    address = text.strip().removeprefix("http://").split("/v1/live")[0]
    if address.startswith(_UNIX):
        return address
    address = address.split("/")[0]
    if address.isdigit():
        address = f"127.0.0.1:{address}"
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) <= 65_535):
        raise LiveError(f"ADDRESS: got {text!r}; allowed: HOST:PORT of server.http, or unix:/PATH")
    return address


def events(address: str) -> Iterator[Event]:
    """Connect, and give each event as it comes, until the server ends the stream.

    Raises `LiveError` where there is none, and where the connection is lost.
    """
    connection = _connection(address)
    try:
        yield from _events(address, connection)
    except LiveError:
        raise
    except UnicodeError as error:
        raise LiveError(f"{address} is no name of a host") from error
    # http.client raises ValueError and OverflowError of sizes that are none.
    except (http.client.HTTPException, ValueError, OverflowError) as error:
        raise LiveError(
            f"{address} does not speak HTTP ({type(error).__name__}); give the address of server.http,"
            " not of server.grpc"
        ) from error
    except TimeoutError as error:
        raise LiveError(f"{address} is silent") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise LiveError(
            f"cannot reach {address}: {why}; is `batcher serve` running, with this address as"
            " server.http?"
        ) from error
    finally:
        connection.close()


def _connection(address: str) -> http.client.HTTPConnection:
    if address.startswith(_UNIX):
        return _UnixConnection(address.removeprefix(_UNIX))
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=SILENCE_S)


def _events(address: str, connection: http.client.HTTPConnection) -> Iterator[Event]:
    connection.request("GET", "/v1/live", headers={"accept": "text/event-stream"})
    answer = connection.getresponse()
    kind = answer.getheader("content-type", "")
    if answer.status == http.client.SERVICE_UNAVAILABLE:
        raise LiveError(f"{address}: {on_one_line(answer.read(300).decode(errors='replace'))}")
    if answer.status != http.client.OK or not kind.startswith("text/event-stream"):
        raise LiveError(
            f"{address} answers, but not as batcher does (status {answer.status}, {on_one_line(kind) or 'no type'});"
            " is it the address of server.http?"
        )
    number = 0
    while line := answer.readline(MAX_LINE_BYTES):
        field, _, value = line.rstrip(b"\r\n").partition(b": ")
        if field == b"id":
            number = int(value) if _NUMBER.fullmatch(value) else 0
        elif field == b"data":
            yield _event(address, number, value)


def _event(address: str, number: int, data: bytes) -> Event:
    try:
        values = _printable(json.loads(data))
        known = {"server", "status", "models", "changes", "devices", "problems"} <= values.keys()
    except (ValueError, AttributeError, RecursionError):
        known = False
    if not known:
        raise LiveError(f"{address} sends events, but not those of batcher")
    return Event(number, values)


def _printable(value: Any) -> Any:
    """The value with question marks for what could change what a terminal does."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join([each if each.isprintable() else "?" for each in value])
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(each) for name, each in value.items()}
    return value
