"""Lists the EndpointSlices of a service, then watches them, and lists again whenever a watch breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.scaler.discovery.interface import Found
from batcher.scaler.discovery.kubernetes.account import Account
from batcher.scaler.discovery.kubernetes.api import WATCH_S, ApiServer, CutError
from batcher.scaler.discovery.kubernetes.slices import GoneError, Port, Slices
from batcher.scaler.discovery.looking import Backoff, DiscoveryError, Pause, Teller

log = logging.getLogger(__name__)

ORDERLY_NS: Final = (WATCH_S - 1) * SECOND
"""A watch that ends earlier was cut, even if it looks as if it was over: an answer without chunks has no other end."""


class SlicedReplicas:
    """Replicas that are the endpoints of a service of Kubernetes.

    A list, or the orderly end of a watch, says that all is known. A watch that breaks says nothing: the next list does.
    """

    def __init__(
        self,
        service: str,
        namespace: str | None,
        port: Port,
        *,
        account: Account | None = None,
        clock: Clock = monotonic_ns,
        pause: Pause = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """`namespace`: None means that of this pod. `port`: its number in the pods, or its name in the service."""
        self._service = service
        self._namespace = namespace
        self._port: Port = port
        self._account = Account() if account is None else account
        self._clock = clock
        self._pause = pause
        self._rng = rng
        self._said = ""

    async def run(self, update: Callable[[Found], None]) -> None:
        """List and watch. See `Discovery`."""
        backoff = Backoff(self._pause, self._rng)
        teller = Teller(update, self._clock)
        server = ApiServer(self._account, self._service, self._namespace)
        try:
            while True:
                try:
                    slices = await self._list(server)
                    teller.found(slices.endpoints())
                except DiscoveryError as error:
                    teller.failed(str(error))
                else:
                    await self._follow(server, slices, teller, backoff)
                await backoff.wait()
        finally:
            await server.close()

    async def _list(self, server: ApiServer) -> Slices:
        slices = Slices(self._service, await server.namespace(), self._port)
        slices.listed(await server.listed())
        return slices

    async def _follow(
        self, server: ApiServer, slices: Slices, teller: Teller, backoff: Backoff
    ) -> None:
        """One watch after the other, until one ends otherwise than it should."""

        def take(lines: list[bytes]) -> None:
            for line in lines:
                slices.changed(line)
            teller.found(slices.endpoints())

        lasted_ns = ORDERLY_NS
        while lasted_ns >= ORDERLY_NS:
            began_ns = self._clock()
            try:
                await server.watch(slices.version, take)
            except (CutError, GoneError) as error:
                log.info("watching the service %s: %s; listing it again", self._service, error)
                return
            except DiscoveryError as error:
                # The list that follows says whether anything is unknown; without watching, changes are only seen later.
                if str(error) != self._said:
                    self._said = str(error)
                    log.warning("the service %s cannot be watched: %s", self._service, error)
                return
            finally:
                lasted_ns = self._clock() - began_ns
                if lasted_ns >= SECOND:  # one that ends at once is asked for more and more rarely
                    backoff.reset()
            if lasted_ns >= ORDERLY_NS:
                take([])
