"""`EventStream`: `/v1/live`, server-sent events for one viewer each."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from batcher.web.live.feed import MAX_VIEWERS, Feed

MAX_VIEW_S: Final = 600.0
"""Seconds after which a stream ends. The page and `batcher top` come back at once, and get the history
again; what has died without a word is gone by then."""

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]

_RETRY: Final = b"retry: 1000\n\n"


class EventStream:
    """An ASGI application: the feed's events, until the viewer goes or the server stops."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the first event at once, and one a second. 503 where there are too many viewers."""
        if scope["method"] not in {"GET", "HEAD"}:
            await PlainTextResponse("Method Not Allowed\n", 405)(scope, receive, send)
            return
        if not self._feed.enter():
            why = "the server is stopping"
            if not self._feed.closed:
                why = f"{MAX_VIEWERS} viewers are looking already"
            refusal = PlainTextResponse(f"{why}\n", 503, headers={"retry-after": "5"})
            await refusal(scope, receive, send)
            return
        gone = asyncio.create_task(_disconnected(receive), name="viewer")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] == "GET":
                await self._send_events(gone, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._feed.leave()

    async def _send_events(self, gone: asyncio.Task[None], send: Send) -> None:
        time = asyncio.get_running_loop().time
        ends_s = time() + MAX_VIEW_S
        event: bytes | None = _RETRY + self._feed.first()
        while event is not None:
            # For a viewer that reads slowly this waits, until it has read or `Connection` aborts it; then
            # it gets the newest event.
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if gone.done() or time() >= ends_s:
                return
            event = await self._feed.following()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
