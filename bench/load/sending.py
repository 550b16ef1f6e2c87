"""What attackers and `mixed` send, and how: as fast as the server grants it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hostile import Link
from payload import UNARY

from batcher.protocol import inference

COLUMNS = 1_000_000
"""Values in a row of the model `wide`."""

PIECE = 256 * 1024
PENDING = 1024**2
"""Bytes that wait in this process to be written, at most, before more are made."""

Found = Counter[str]


@dataclass(frozen=True, slots=True)
class Target:
    """A server with the models `hello` (16 columns) and `wide`."""

    grpc: str
    http: str
    seconds: float


def wide(rows: int, classes: int = 0) -> bytes:
    """A request for `wide`, asking for the first so many classes of each row."""
    request = inference.ModelInferRequest(
        model_name="wide", raw_input_contents=[bytes(4 * COLUMNS * rows)]
    )
    request.inputs.add(name="X", datatype="FP32", shape=[rows, COLUMNS])
    if classes:
        request.outputs.add(name="Y").parameters["classification"].int64_param = classes
    return request.SerializeToString()


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    """As gRPC frames it."""
    return bytes([compressed]) + len(payload).to_bytes(4, "big") + payload


async def whole(link: Link, stream: int, data: bytes, until: float) -> bool:
    """Send all of that as the server grants it, and whether that was done in time."""
    view = memoryview(data)
    while view and not link.gone and time.monotonic() < until:
        size = min(link.room(stream), len(view), PIECE)
        if size and link.pending() < PENDING:
            link.data(stream, view[:size], end=False)
            view = view[size:]
        else:
            await link.changed(0.01)
    return not view


async def ask(link: Link, request: bytes, until: float, *headers: tuple[str, str]) -> None:
    """Make a call with that message; does not wait for its end."""
    stream = link.begin(UNARY, *headers)
    if await whole(link, stream, request, until):
        link.data(stream, b"", end=True)


def closed(links: Sequence[Link]) -> Found:
    """Close them; how their calls and they themselves ended."""
    found: Found = Counter()
    for link in links:
        found += link.outcomes
        found["connections"] += 1
        found["connections held to the end"] += not link.gone
        link.close()
    return found
