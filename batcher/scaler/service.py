"""The gRPC services: KEDA's `externalscaler.ExternalScaler`, and `batcher.scaler.v1.Fleets`.

No call waits for a replica: each is answered from what the last polls said. The statuses are chosen by what KEDA
makes of them: an error of any call leaves the size of the deployment as it is (unless the ScaledObject has a
`fallback`), and its text stands in the events of the ScaledObject.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from math import ceil
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
from grpc import aio

from batcher.clock import SECOND
from batcher.http2.grpc_headers import INTERNAL_ERROR
from batcher.protocol import FLEETS, KEDA, handlers, keda, scaler
from batcher.scaler.asking import Question, RefusedError, read_question
from batcher.scaler.fleet import Fleet
from batcher.scaler.streams import Streams
from batcher.scaler.turns import Turns
from batcher.scaler.waking import Waker
from batcher.server.status import shortened

log = logging.getLogger(__name__)

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

METHODS: Final = ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics", "Wake")
"""Methods of which calls are counted."""

_LARGEST_INT: Final = (1 << 63) - 1


class ScalerService:
    """Answers for some fleets."""

    def __init__(self, fleets: dict[str, Fleet], streams: Streams, waker: Waker) -> None:
        self.calls: Counter[tuple[str, str]] = Counter({(method, "OK"): 0 for method in METHODS})
        """Calls that have ended, by method and the name of the status."""
        # Apart: a caller that opens streams by the thousand keeps no other call waiting.
        self._turns, self._turns_of_streams = Turns(), Turns()
        self._fleets = fleets
        self._streams = streams
        self._waker = waker
        self._known = {name: fleet.config.models for name, fleet in fleets.items()}

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The handlers to add to a server."""
        return [
            handlers(
                KEDA,
                {
                    "IsActive": self._counted("IsActive", self._is_active),
                    "StreamIsActive": self._stream_is_active,
                    "GetMetricSpec": self._counted("GetMetricSpec", self._get_metric_spec),
                    "GetMetrics": self._counted("GetMetrics", self._get_metrics),
                },
            ),
            handlers(FLEETS, {"Wake": self._counted("Wake", self._wake)}),
        ]

    def _is_active(self, request: keda.ScaledObjectRef, _: Context) -> keda.IsActiveResponse:
        question = self._question(request)
        state = self._fleets[question.fleet].activity()
        if state.active is None:
            raise _unavailable(
                f"whether fleet {question.fleet} is active is not known: {state.reason}"
            )
        return keda.IsActiveResponse(result=state.active)

    async def _stream_is_active(
        self, request: keda.ScaledObjectRef, context: Context
    ) -> AsyncIterator[keda.IsActiveResponse]:
        code = "CANCELLED"
        try:
            await self._turns_of_streams.take()
            question = self._question(request)
            fleet = self._fleets[question.fleet]
            states = self._streams.states(lambda: fleet.activity().active)
            try:
                async for state in states:
                    yield keda.IsActiveResponse(result=state)
            finally:
                await states.aclose()  # type: ignore[attr-defined]  # it is a generator
            code = "OK"
        except RefusedError as error:
            code = error.code.name
            await _abort(context, error)
        finally:
            self.calls["StreamIsActive", code] += 1

    def _get_metric_spec(
        self, request: keda.ScaledObjectRef, _: Context
    ) -> keda.GetMetricSpecResponse:
        question = self._question(request)
        spec = keda.MetricSpec(
            metricName=question.metric.name,
            # For versions of KEDA that read no other: rounded, and at least 1.
            targetSize=_whole(question.target),
            targetSizeFloat=question.target,
        )
        return keda.GetMetricSpecResponse(metricSpecs=[spec])

    def _get_metrics(self, request: keda.GetMetricsRequest, _: Context) -> keda.GetMetricsResponse:
        question = self._question(request.scaledObjectRef)
        metric = question.metric
        if request.metricName != metric.name:
            raise RefusedError(
                grpc.StatusCode.NOT_FOUND,
                f'metricName: got "{shortened(request.metricName[:60])}"; allowed: {metric.name}, the'
                " metric in the metadata of the trigger",
            )
        fleet = self._fleets[question.fleet]
        names = fleet.model_names()
        if question.model and names and question.model not in names:
            raise RefusedError(
                grpc.StatusCode.NOT_FOUND,
                f'model: no replica of fleet {question.fleet} has "{shortened(question.model[:60])}";'
                f" they have {', '.join(sorted(names)[:20])}",
            )
        value = fleet.value(metric, question.model)
        if value.estimate is None:
            raise _unavailable(
                f"{metric.name} of fleet {question.fleet} is not known: {value.reason}"
            )
        found = value.estimate.for_target(question.target, metric.how)
        answer = keda.MetricValue(
            metricName=metric.name, metricValue=_whole(found), metricValueFloat=found
        )
        return keda.GetMetricsResponse(metricValues=[answer])

    def _wake(self, request: scaler.WakeRequest, context: Context) -> scaler.WakeResponse:
        metadata = context.invocation_metadata() or ()
        presented = next((value for key, value in metadata if key == "authorization"), "")
        if isinstance(presented, bytes):
            presented = presented.decode(errors="replace")
        wake_ns = self._waker.wake(request.fleet, presented)
        response = scaler.WakeResponse()
        response.active_for.seconds, response.active_for.nanos = divmod(wake_ns, SECOND)
        return response

    def _question(self, ref: keda.ScaledObjectRef) -> Question:
        return read_question(ref.scalerMetadata, self._known)

    def _counted(
        self, method: str, answer: Callable[[_Request, Context], _Response]
    ) -> Callable[[_Request, Context], Awaitable[_Response]]:
        """The method, with its refusals as statuses, and its end counted."""

        async def call(request: _Request, context: Context) -> _Response:
            code = "CANCELLED"
            try:
                await self._turns.take()
                response = answer(request, context)
                code = "OK"
            except RefusedError as error:
                code = error.code.name
                await _abort(context, error)
            except Exception:
                code = "INTERNAL"
                log.exception(INTERNAL_ERROR)
                await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_ERROR)
                raise AssertionError("abort raises") from None
            else:
                return response
            finally:
                self.calls[method, code] += 1
                del context  # an error's traceback refers to this frame

        return call


async def _abort(context: Context, error: RefusedError) -> NoReturn:
    try:
        await context.abort(error.code, shortened(str(error)))
    finally:
        del context
    raise AssertionError("abort raises")


def _unavailable(message: str) -> RefusedError:
    return RefusedError(grpc.StatusCode.UNAVAILABLE, message)


def _whole(value: float) -> int:
    return min(ceil(value), _LARGEST_INT)
