"""The paths of the HTTP listener: `/metrics`, `/healthz`, `/readyz`, `/v1/fleets`, and the one that wakes a fleet."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from batcher.clock import MILLISECOND, SECOND, Clock
from batcher.scaler.asking import RefusedError
from batcher.scaler.collector import ScalerCollector
from batcher.scaler.fleet import Fleet
from batcher.scaler.metrics import METRICS
from batcher.scaler.replica import Replica
from batcher.scaler.waking import Waker
from batcher.web.app import MAX_WAITING_SCRAPES
from batcher.web.exposition import Exposition

_PATHS: Final = (
    "this port serves /metrics, /healthz, /readyz, /v1/fleets, /v1/fleets/NAME and POST /v1/fleets/NAME/wake;"
    " KEDA asks by gRPC, on the addresses of listen.grpc\n"
)

_STATUSES: Final = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
}

_PAGE_NS: Final = 500 * MILLISECOND
"""A page is made at most so often, however many ask: that of a thousand replicas takes some ten milliseconds."""

Handler = Callable[[Request], Awaitable[Response]]


def build_scaler_app(
    fleets: dict[str, Fleet],
    collector: ScalerCollector,
    waker: Waker,
    clock: Clock,
    not_ready: Callable[[], str],
) -> Starlette:
    """The application. `not_ready` says why the scaler is not ready; empty if it is."""

    async def index(_: Request) -> Response:
        return PlainTextResponse(f"batcher scaler: {_PATHS}")

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reason = not_ready()
        body = {"ready": not reason, "reason": reason}
        return JSONResponse(body, status_code=503 if reason else 200)

    async def not_found(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse(f"Not Found: {_PATHS}", 404)

    return Starlette(
        exception_handlers={404: not_found},
        routes=[
            Route("/", index),
            Route("/metrics", _metrics(collector)),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/v1/fleets", _all_fleets(fleets, clock)),
            Route("/v1/fleets/{name}", _one_fleet(fleets, clock)),
            Route("/v1/fleets/{name}/wake", _wake(waker), methods=["POST"]),
        ],
    )


def _metrics(collector: ScalerCollector) -> Handler:
    exposition = Exposition(collector)

    async def metrics(request: Request) -> Response:
        if exposition.waiting >= MAX_WAITING_SCRAPES:
            text = f"{MAX_WAITING_SCRAPES} scrapes are waiting already; try again later\n"
            return PlainTextResponse(text, 503, headers={"retry-after": "1"})
        body, content_type = await exposition.text(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return metrics


def _wake(waker: Waker) -> Handler:
    async def wake(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            woken_ns = waker.wake(name, request.headers.get("authorization", ""))
        except RefusedError as error:
            status = _STATUSES.get(error.code, 400)
            headers = {"www-authenticate": "Bearer"} if status == 401 else {}
            return JSONResponse({"error": str(error)}, status_code=status, headers=headers)
        return JSONResponse({"fleet": name, "active_for_seconds": woken_ns / SECOND})

    return wake


class _Page:
    """A text of JSON that is made again when it is `_PAGE_NS` old."""

    def __init__(self, make: Callable[[int], Any], clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._made_ns: int | None = None
        self._text = ""

    def answer(self) -> Response:
        now_ns = self._clock()
        if self._made_ns is None or now_ns - self._made_ns >= _PAGE_NS:
            self._text = json.dumps(self._make(now_ns), indent=1, allow_nan=False)
            self._made_ns = now_ns
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return Response(self._text, headers=headers)


def _all_fleets(fleets: dict[str, Fleet], clock: Clock) -> Handler:
    page = _Page(
        lambda now_ns: {"fleets": [fleet_summary(each, now_ns) for each in fleets.values()]}, clock
    )

    async def answer(_: Request) -> Response:
        return page.answer()

    return answer


def _one_fleet(fleets: dict[str, Fleet], clock: Clock) -> Handler:
    def made(fleet: Fleet) -> Callable[[int], Any]:
        return lambda now_ns: {
            **fleet_summary(fleet, now_ns),
            "replicas": [replica_summary(each, now_ns) for each in fleet.replicas],
        }

    pages = {name: _Page(made(fleet), clock) for name, fleet in fleets.items()}

    async def answer(request: Request) -> Response:
        page = pages.get(request.path_params["name"])
        if page is None:
            text = f"there is no fleet of that name; allowed: {', '.join(pages)}"
            return JSONResponse({"error": text}, status_code=404)
        return page.answer()

    return answer


def fleet_summary(fleet: Fleet, now_ns: int) -> dict[str, Any]:
    """What is known of a fleet, as JSON. What is not known is null."""
    state, found = fleet.activity(), fleet.found
    metrics: dict[str, Any] = {}
    for metric in METRICS.values():
        value = fleet.value(metric, "")
        known = value.estimate
        metrics[metric.name] = {
            "value": None if known is None else known.value,
            "last": fleet.last_value(metric),
        }
        if known is None:
            metrics[metric.name]["reason"] = value.reason
    age_ns = fleet.report_age_ns(now_ns)
    return {
        "fleet": fleet.config.name,
        "active": state.active,
        "reason": state.reason,
        "replica_states": {state: count for state, count in fleet.states().items() if count},
        "oldest_report_seconds": None if age_ns is None else _seconds(age_ns),
        "discovery": {
            "ok": None if found is None else found.ok,
            "error": "" if found is None else found.error,
            "age_seconds": None if found is None else _seconds(now_ns - found.at_ns),
        },
        "metrics": metrics,
    }


def replica_summary(replica: Replica, now_ns: int) -> dict[str, Any]:
    """What is known of a replica, as JSON."""
    report, age_ns = replica.report, replica.age_ns(now_ns)
    mean = replica.readings.mean(METRICS["desired_ratio"], "", now_ns)
    return {
        "address": replica.endpoint.address,
        "name": replica.endpoint.name or ("" if report is None else report.replica),
        "state": replica.state(now_ns),
        "listed_ready": replica.endpoint.ready,
        "last_poll": replica.result,
        "error": replica.error,
        "report_age_seconds": None if age_ns is None else _seconds(age_ns),
        "asked_seconds_ago": _seconds(now_ns - replica.asked_ns),
        "start_id": None if report is None else report.start_id,
        "ready": None if report is None else report.ready,
        "reason": "" if report is None else report.reason,
        "desired_ratio": None if report is None else report.load,
        "desired_ratio_mean": None if mean is None else mean.value,
    }


def _seconds(duration_ns: int) -> float:
    return round(duration_ns / SECOND, 3)
