"""Asks one replica for its load report, again and again.

At most one call is out at a time. The first comes within half an interval, and every wait is drawn from 0.9 to 1.1
intervals, so that replicas that were listed at once are not asked at once, nor asked for ever by several scalers in step.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, TypeAlias

import grpc
from grpc import aio

from batcher.clock import MILLISECOND, SECOND, Clock
from batcher.errors import on_one_line
from batcher.protocol import LOAD_REPORTS, load, methods
from batcher.scaler.channels import Channels
from batcher.scaler.config import PollConfig
from batcher.scaler.replica import PollResult, Replica

log = logging.getLogger(__name__)

Told: TypeAlias = Callable[[Replica, float], None]
"""Called after each poll, with the seconds that it took."""

_METHOD: Final = methods(LOAD_REPORTS)["Get"]
_REQUEST: Final = load.GetLoadRequest().SerializeToString()

_SLACK_S: Final = 0.2
"""The library ends calls at their deadline by itself; should it fail to, the poll ends so much later."""

POLL_SPACING_NS: Final = 2 * MILLISECOND
"""Mean time between two polls at least, of all replicas together: a poll takes some 0.8 ms, so that they take less than
half of a core, and answers are never late for them. From 500 replicas on, each is asked less often than each second."""

_RESULTS: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: PollResult.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: PollResult.UNREACHABLE,
}
_TOO_LARGE: Final = "larger than max"
"""What gRPC's own client says of an answer that it does not take, under a code that servers have uses for, too."""


class PollSpacing:
    """How often replicas are asked, of all fleets together: one for all pollers of a process."""

    def __init__(self) -> None:
        self.pollers = 0
        """Replicas that are asked."""

    def interval_ns(self, poll: PollConfig) -> int:
        """The interval of `poll`, or what `POLL_SPACING_NS` makes of it with so many replicas."""
        return max(poll.interval, self.pollers * POLL_SPACING_NS)


class Poller:
    """Polls one replica. `start` once; `stop` once, which closes its connection."""

    def __init__(
        self,
        replica: Replica,
        channels: Channels,
        poll: PollConfig,
        spacing: PollSpacing,
        clock: Clock,
        told: Told,
    ) -> None:
        self.replica = replica
        self._channels = channels
        self._poll = poll
        self._spacing = spacing
        self._clock = clock
        self._told = told
        self._channel: aio.Channel | None = None
        self._generation = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Poll from now on."""
        self._spacing.pollers += 1
        self._task = asyncio.create_task(self._run(), name=f"poll {self.replica.endpoint.address}")

    async def stop(self) -> None:
        """Poll no more."""
        if self._task is not None:
            self._spacing.pollers -= 1
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._close()

    async def _run(self) -> None:
        # Not for secrets: it spreads calls.
        await asyncio.sleep(random.uniform(0, self._interval_s() / 2))  # noqa: S311
        while True:
            began_ns = self._clock()
            try:
                await self._ask()
                self._told(self.replica, (self._clock() - began_ns) / SECOND)
            except Exception as error:
                log.exception("internal error while a replica was asked for its load")
                self.replica.failed(PollResult.FAILED, f"internal error: {type(error).__name__}")
            due_s = began_ns / SECOND + self._interval_s() * random.uniform(0.9, 1.1)  # noqa: S311
            await asyncio.sleep(max(due_s - self._clock() / SECOND, 0.0))

    def _interval_s(self) -> float:
        return self._spacing.interval_ns(self._poll) / SECOND

    async def _ask(self) -> None:
        timeout_s = self._poll.timeout / SECOND
        try:
            get = await self._method()
            async with asyncio.timeout(timeout_s + _SLACK_S):
                data = await get(_REQUEST, timeout=timeout_s)
        except aio.AioRpcError as error:
            self.replica.failed(_result(error), _said(error))
        except TimeoutError:
            self.replica.failed(PollResult.TIMEOUT, "no answer in time")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The library's own: it cancelled the call, and none has stopped this poller.
            self.replica.failed(PollResult.FAILED, "the call was cancelled")
        else:
            self.replica.answered(data, self._clock())

    async def _method(self) -> aio.UnaryUnaryMultiCallable:
        if self._channel is None or self._generation != self._channels.generation:
            await self._close()
            self._generation = self._channels.generation
            self._channel = self._channels.open(self.replica.endpoint.address)
        # Without a deserializer: the bytes are judged before they are believed.
        return self._channel.unary_unary(_METHOD.path)

    async def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def _result(error: aio.AioRpcError) -> PollResult:
    exhausted = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    if exhausted and _TOO_LARGE in (error.details() or ""):
        return PollResult.TOO_LARGE
    return _RESULTS.get(error.code(), PollResult.FAILED)


def _said(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {on_one_line(error.details() or '')}"
