"""Mixed load for `soak`: calls of every kind, and every way in which callers cancel them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from hostile import Link, connect
from payload import STREAM, UNARY, make_request
from sending import Found, Target, ask, closed, message, whole, wide

from batcher.http2.sansio.frames import Error

WORKERS = 8
LONGEST_PAUSE_S = 0.1
"""Between two acts of a worker."""

MOST_ACTS = 40
"""Of one connection."""

PATIENCE_S = 5.0
SMALL = message(make_request("hello", 16))
LARGE = message(wide(1))
WRONG = message(make_request("none", 16))


async def mixed(_target: Target, until: float) -> Found:
    """Workers that connect, act, and leave, each with choices of its own that are the same in every run."""
    found: Found = Counter()
    await asyncio.gather(*(_work(_target, until, number, found) for number in range(WORKERS)))
    return found


async def _work(target: Target, until: float, number: int, found: Found) -> None:
    choose = random.Random(number)
    while time.monotonic() < until:
        link = await connect(target.grpc, window=2**30)
        for _ in range(choose.randint(1, MOST_ACTS)):
            if link.gone or time.monotonic() >= until:
                break
            act = choose.choice(ACTS)
            found[act.__name__.strip("_")] += 1
            await act(link, choose)
            await asyncio.sleep(choose.uniform(0, LONGEST_PAUSE_S))
        found.update(closed([link]))


async def _call(link: Link, _: random.Random) -> None:
    await _answered(link, lambda: ask(link, SMALL, _soon()))


async def _large_call(link: Link, _: random.Random) -> None:
    await _answered(link, lambda: ask(link, LARGE, _soon()))


async def _wrong_call(link: Link, _: random.Random) -> None:
    await _answered(link, lambda: ask(link, WRONG, _soon()))


async def _short_deadline(link: Link, choose: random.Random) -> None:
    timeout = ("grpc-timeout", f"{choose.randint(1, 8000)}u")
    await _answered(link, lambda: ask(link, SMALL, _soon(), timeout))


async def _many_calls(link: Link, _: random.Random) -> None:
    async def send() -> None:
        for _ in range(8):
            await ask(link, SMALL, _soon())

    await _answered(link, send, 8)


async def _stream(link: Link, _: random.Random) -> None:
    async def send() -> None:
        stream = link.begin(STREAM)
        if await whole(link, stream, SMALL * 10, _soon()):
            link.data(stream, b"", end=True)

    await _answered(link, send)


async def _cancelled(link: Link, choose: random.Random) -> None:
    stream = link.begin(UNARY)
    if await whole(link, stream, SMALL, _soon()):
        link.data(stream, b"", end=True)
    await asyncio.sleep(choose.uniform(0, 0.01))
    link.reset(stream, Error.CANCEL)


async def _cancelled_stream(link: Link, choose: random.Random) -> None:
    stream = link.begin(STREAM)
    await whole(link, stream, choose.choice((SMALL * 5, LARGE)), _soon())
    link.reset(stream, Error.CANCEL)


async def _cancelled_halfway(link: Link, choose: random.Random) -> None:
    stream = link.begin(UNARY)
    await whole(link, stream, LARGE[: choose.randrange(len(LARGE))], _soon())
    link.reset(stream, Error.CANCEL)


async def _broken(link: Link, choose: random.Random) -> None:
    stream = link.begin(UNARY)
    await whole(link, stream, LARGE[: choose.randrange(len(LARGE))], _soon())
    link.close()


ACTS: tuple[Callable[[Link, random.Random], Awaitable[None]], ...] = (
    _call,
    _large_call,
    _wrong_call,
    _short_deadline,
    _many_calls,
    _stream,
    _cancelled,
    _cancelled_stream,
    _cancelled_halfway,
    _broken,
)


def _soon() -> float:
    return time.monotonic() + PATIENCE_S


async def _answered(link: Link, send: Callable[[], Awaitable[None]], calls: int = 1) -> None:
    """Send, and wait until so many more calls have ended."""
    wanted, until = link.ended + calls, _soon()
    await send()
    while link.ended < wanted and not link.gone:
        await link.changed(0.1)
        if time.monotonic() > until:
            link.outcomes["no answer"] += 1
            return
