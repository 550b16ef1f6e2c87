"""The pages: `/metrics`, `/healthz`, `/readyz` and an index that links them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from batcher import __version__
from batcher.runtime.health import HealthReport
from batcher.web.exposition import Exposition

MAX_SCRAPES: Final = 32
"""Requests for `/metrics` that wait at once: half of the connections; probes have the others."""

_NOT_FOUND = "Not Found: here are /metrics, /healthz and /readyz; inference is gRPC (server.grpc)\n"

_INDEX = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>batcher</title>
<h1>batcher {__version__}</h1>
<ul>
<li><a href="/metrics">/metrics</a>: what it measures, for Prometheus
<li><a href="/healthz">/healthz</a>: whether its event loop turns
<li><a href="/readyz">/readyz</a>: whether it wants traffic, and which models serve
</ul>
</html>
"""


def build_app(registry: Collector, health: Callable[[], HealthReport]) -> Starlette:
    """The application; `registry` and `health` are read anew at each request.

    `/healthz` answers 200 whenever it is reached: an answer at all proves that the loop turns, and
    a full queue is no reason to be restarted. It answers 503 where only a restart helps. `/readyz`
    answers 200 or 503, with the report as JSON in both cases.
    """

    async def index(_: Request) -> Response:
        return HTMLResponse(_INDEX)

    exposition = Exposition(registry)

    async def metrics(request: Request) -> Response:
        if exposition.waiting >= MAX_SCRAPES:
            told = f"{MAX_SCRAPES} scrapers are waiting already\n"
            return PlainTextResponse(told, 503, headers={"retry-after": "1"})
        body, content_type = await exposition.text(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        report = health()
        if report.live:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"{report.reason}\n", 503)

    async def readyz(_: Request) -> Response:
        report = health()
        told = asdict(report)
        del told["ending"]  # what `reason` says in words
        return JSONResponse(told, status_code=200 if report.ready else 503)

    async def not_found(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse(_NOT_FOUND, 404)

    return Starlette(
        exception_handlers={404: not_found},
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
    )
