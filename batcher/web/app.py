"""The paths: `/metrics`, `/v1/load`, `/healthz`, `/readyz`, and the live view at `/` and `/v1/live`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Final

from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from batcher.runtime.health import HealthReport
from batcher.telemetry.load import LoadReport, SharedEncoding, json_parts
from batcher.web.exposition import Exposition
from batcher.web.live import PAGE, SECURITY_HEADERS, EventStream, Feed

MAX_WAITING_SCRAPES: Final = 32
"""Requests for `/metrics` that wait at once: a quarter of the connections. Viewers and health probes have the others."""

_NOT_FOUND = (
    "Not Found: this port serves the live view at /, /metrics, /v1/load, /healthz and /readyz;"
    " inference is gRPC, on the addresses of server.grpc\n"
)


def build_app(
    registry: Collector,
    health: Callable[[], HealthReport],
    feed: Feed | None = None,
    load: Callable[[], Awaitable[LoadReport]] | None = None,
) -> Starlette:
    """The application; `registry`, `health` and `load` are read anew at each request.

    `/` shows what `/v1/live` sends, which is there if a feed is given, and `/v1/load` if `load` is.

    `/healthz` answers 503 where only a restart helps, else 200: an answer at all proves that the event
    loop runs, and a full queue is no reason for a restart. `/readyz` answers 200 or 503, with the
    report as JSON in both cases.
    """

    async def index(_: Request) -> Response:
        return HTMLResponse(PAGE, headers=SECURITY_HEADERS)

    exposition = Exposition(registry)

    async def metrics(request: Request) -> Response:
        if exposition.waiting >= MAX_WAITING_SCRAPES:
            text = f"{MAX_WAITING_SCRAPES} scrapes are waiting already; try again later\n"
            return PlainTextResponse(text, 503, headers={"retry-after": "1"})
        body, content_type = await exposition.text(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        report = health()
        if report.live:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"{report.reason}\n", 503)

    async def readyz(_: Request) -> Response:
        report = health()
        body = asdict(report)
        del body["ending"]  # `reason` says it in words
        return JSONResponse(body, status_code=200 if report.ready else 503)

    async def not_found(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse(_NOT_FOUND, 404)

    return Starlette(
        exception_handlers={404: not_found},
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            *([] if load is None else [Route("/v1/load", _load_page(load))]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            *([] if feed is None else [Route("/v1/live", EventStream(feed))]),
        ],
    )


def _load_page(
    load: Callable[[], Awaitable[LoadReport]],
) -> Callable[[Request], Awaitable[Response]]:
    encoding = SharedEncoding(load, json_parts)

    async def answer(_: Request) -> Response:
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return Response(await encoding.current(), headers=headers)

    return answer
