"""The pages: `/metrics`, `/healthz`, `/readyz` and an index that links them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from batcher import __version__
from batcher.web.exposition import render
from batcher.web.health import HealthReport

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
    a full queue is no reason to be restarted. `/readyz` answers 200 or 503, with the report as JSON
    in both cases.
    """

    async def index(_: Request) -> Response:
        return HTMLResponse(_INDEX)

    async def metrics(request: Request) -> Response:
        body, content_type = await render(registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        report = health()
        return JSONResponse(asdict(report), status_code=200 if report.ready else 503)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )
