"""Large tensors through system shared memory, towards a neighbor on the same host that can (Triton).

Each batch in flight has a region of its own: its inputs, and behind them room for its outputs. A
region is registered at the neighbor when it is first used, and again after each reconnect, since a
neighbor that was restarted knows none. It goes back into the pool when its call has ended.

A call that was cancelled may still be executed: the neighbor reads the inputs and writes the outputs
of that region, for an unknown time. Such a region is never used again. It is set aside, and
unregistered and removed after `ASIDE_S`, or when the executor is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import grpc
import grpc.aio
import numpy as np

from batcher.config.addresses import TcpAddress, parse_address
from batcher.errors import on_one_line
from batcher.executor import Batch, TensorSpec
from batcher.executors.kserve.discovery import Neighbor
from batcher.executors.kserve.regions import PREFIX, Region, aligned, is_there, remove_left_behind
from batcher.executors.kserve.request import Piece, nbytes
from batcher.protocol import inference
from batcher.tensors import DTYPES

log = logging.getLogger(__name__)

EXTENSION: Final = "system_shared_memory"
"""What a server that can says in its ServerMetadata."""

WORTH_BYTES: Final = 512 * 1024
"""The inputs and outputs of a batch from which on shared memory is used: 0.26 MB take longer through it
than in a message, 1 MB a quarter less, 19 MB less than half (`bench/neighbors cost`)."""

ASIDE_S: Final = 60.0
"""How long the region of a cancelled call stays registered. A neighbor that still executes the call
after this, and that unmaps regions in use, would crash."""

MAX_ASIDE: Final = 8
"""Regions set aside from which on tensors travel in messages. Those of the calls in flight may come on top."""


_GONE: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

_UNRESOLVED: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
"""Statuses that gRPC itself may have made, while the neighbor still executes the call."""


@dataclass(slots=True)
class Placed:
    """Where a batch's tensors are in its region: name -> (offset, bytes)."""

    region: Region
    inputs: dict[str, tuple[int, int]]
    outputs: dict[str, tuple[int, int]]

    def views(self) -> dict[str, memoryview]:
        """The memory of each output."""
        return {
            name: self.region.view[start : start + size]
            for name, (start, size) in self.outputs.items()
        }


class SharedMemory:
    """The regions of one executor. All calls are made on the event loop."""

    def __init__(
        self,
        neighbor: Neighbor,
        outputs: Sequence[TensorSpec],
        headers: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._neighbor = neighbor
        self._headers = headers
        self._row_bytes = {
            spec.name: prod(spec.inner) * DTYPES[spec.datatype].itemsize
            for spec in outputs
            if spec.datatype != "BYTES" and min(spec.inner, default=0) >= 0
        }
        """Output -> bytes of a row, for those of which it is known."""
        self._registered: set[Region] = set()
        self._free: list[Region] = []
        self._aside: list[tuple[float, Region]] = []
        self._last: set[asyncio.Task[None]] = set()
        self._usable = True
        self._closed = False

    @classmethod
    async def start(
        cls,
        neighbor: Neighbor,
        extensions: frozenset[str],
        outputs: Sequence[TensorSpec],
        headers: Callable[[], Sequence[tuple[str, str]]],
    ) -> SharedMemory | None:
        """Shared memory with that neighbor, or None where it is on another host or cannot.

        Removes what earlier processes left behind, here and at the neighbor.
        """
        if not is_local(neighbor.url):
            return None
        if EXTENSION not in extensions:
            log.info("%s has no system shared memory: tensors travel in messages", neighbor)
            return None
        removed = await asyncio.to_thread(remove_left_behind)
        if removed:
            log.info("removed %d regions of shared memory that a crash left behind", removed)
        shared = cls(neighbor, outputs, headers)
        try:
            status = await shared._call(
                "SystemSharedMemoryStatus", inference.SystemSharedMemoryStatusRequest()
            )
            for name, region in status.regions.items():
                if name.startswith(PREFIX) and not is_there(region.key):
                    await shared._unregister(name)
        except grpc.aio.AioRpcError as error:
            shared._give_up(error)
            return None
        return shared

    async def place(self, batch: Batch, wanted: frozenset[str], most_rows: int) -> Placed | None:
        """The batch's inputs in a region, with room for its outputs; None where it is not worth it.

        The caller must call `ended` or `set_aside` when the call has ended or was cancelled.
        """
        self._remove_aside()
        if not self._usable or len(self._aside) >= MAX_ASIDE:
            return None
        sizes = {name: sum(map(nbytes, pieces)) for name, pieces in batch.raw.items()}
        outputs = {name: batch.rows * self._row_bytes[name] for name in wanted & {*self._row_bytes}}
        needed = sum(map(aligned, (*sizes.values(), *outputs.values())))
        if needed < WORTH_BYTES:
            return None
        region = await self._region(needed, -(-needed // batch.rows) * max(batch.rows, most_rows))
        if region is None:
            return None
        places = _places(sizes | {f"/{name}": size for name, size in outputs.items()})
        placed = Placed(
            region,
            {name: places[name] for name in sizes},
            {name: places[f"/{name}"] for name in outputs},
        )
        try:
            await asyncio.to_thread(_copy, placed, batch.raw)
        except BaseException:
            self.set_aside(region)  # the thread may still write to it
            raise
        return placed

    def ended(self, region: Region, error: grpc.aio.AioRpcError | None) -> bool:
        """A call has ended, with a status if it failed: the next batch may use its region.

        Returns whether the neighbor refused the call because it does not know the region: then it has
        executed nothing.
        """
        if error is not None and error.code() in _UNRESOLVED:
            self.set_aside(region)
            return False
        self._put_back(region)
        if error is None or "shared memory region" not in (error.details() or "").lower():
            return False
        self.forget()
        return True

    def set_aside(self, region: Region) -> None:
        """Its call was cancelled, and the neighbor may still use it."""
        if self._closed:
            region.close()
        else:
            self._aside.append((time.monotonic() + ASIDE_S, region))

    def forget(self) -> None:
        """The connection was lost: the neighbor may know no region any more."""
        self._registered.clear()

    async def close(self) -> None:
        """Unregister and remove all regions; those of calls that have not ended yet are removed when they do."""
        self._closed = True
        regions = [*self._free, *(region for _, region in self._aside)]
        self._free, self._aside = [], []
        if self._last:
            await asyncio.wait(self._last)
        await asyncio.gather(*(self._remove(region) for region in regions))

    async def _region(self, needed: int, best: int) -> Region | None:
        """A registered region of at least `needed` bytes; a new one has `best` bytes if there is room."""
        region = None
        while self._free and region is None:
            region = self._free.pop()
            if region.nbytes < needed:
                self._spawn_removal(region)
                region = None
        if region is None:
            try:
                region = await self._new(needed, best)
            except OSError as error:
                log.warning(
                    "no room for a region of %d bytes in shared memory (%s): large tensors for %s"
                    " travel in messages; more room: a larger /dev/shm, or options.shared_memory: off",
                    needed,
                    error.strerror,
                    self._neighbor,
                )
                self._usable = False
                return None
        if region in self._registered:
            return region
        try:
            await self._call(
                "SystemSharedMemoryRegister",
                inference.SystemSharedMemoryRegisterRequest(
                    name=region.name, key=region.key, offset=0, byte_size=region.nbytes
                ),
            )
        except grpc.aio.AioRpcError as error:
            # A neighbor that was not restarted still knows it.
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                # One that did not answer in time may have it by now, and would keep its memory.
                self._spawn_removal(region)
                if error.code() not in _GONE:
                    self._give_up(error)
                return None
        except BaseException:
            self.set_aside(region)
            raise
        self._registered.add(region)
        return region

    async def _new(self, needed: int, best: int) -> Region:
        """A new region; where its caller leaves meanwhile, the next batch may have it. Raises OSError."""
        making = asyncio.ensure_future(asyncio.to_thread(_new_region, needed, best))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._left)
            raise

    def _left(self, making: asyncio.Future[Region]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._put_back(making.result())

    def _put_back(self, region: Region) -> None:
        if self._closed:
            region.close()
        else:
            self._free.append(region)

    def _give_up(self, error: grpc.aio.AioRpcError) -> None:
        self._usable = False
        log.warning(
            "%s does not take system shared memory (%s: %s): tensors travel in messages",
            self._neighbor,
            error.code().name,
            on_one_line(error.details() or ""),
        )

    def _remove_aside(self) -> None:
        """Remove the regions that were set aside long ago."""
        now_s = time.monotonic()
        while self._aside and self._aside[0][0] <= now_s:
            self._spawn_removal(self._aside.pop(0)[1])

    def _spawn_removal(self, region: Region) -> None:
        task = asyncio.get_running_loop().create_task(self._remove(region))
        self._last.add(task)
        task.add_done_callback(self._last.discard)

    async def _remove(self, region: Region) -> None:
        self._registered.discard(region)
        try:
            await self._unregister(region.name)
        except grpc.aio.AioRpcError as error:
            log.debug("%s could not be unregistered: %s", region.name, error.details())
        finally:
            region.close()

    async def _unregister(self, name: str) -> None:
        await self._call(
            "SystemSharedMemoryUnregister",
            inference.SystemSharedMemoryUnregisterRequest(name=name),
        )

    async def _call(
        self, method: str, request: object
    ) -> inference.SystemSharedMemoryStatusResponse:
        answer: inference.SystemSharedMemoryStatusResponse = await self._neighbor.ask(
            method, request, self._headers(), optional=False
        )
        return answer


def is_local(url: str) -> bool:
    """Whether an address can only be on this host: a Unix socket, or a loopback address."""
    address = parse_address(url)
    if not isinstance(address, TcpAddress):
        return True
    return address.host in {"localhost", "::1"} or address.host.startswith("127.")


def _new_region(needed: int, best: int) -> Region:
    try:
        return Region(best)
    except OSError:
        return Region(needed)


def _places(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Name -> (offset, bytes), one behind the other."""
    found, at = {}, 0
    for name, size in sizes.items():
        found[name] = at, size
        at += aligned(size)
    return found


def _copy(placed: Placed, raw: Mapping[str, Sequence[Piece]]) -> None:
    """Copy the inputs to their places; on a thread, because numpy copies without the interpreter lock.

    The places of the outputs become zeros: what a neighbor leaves out must not be another caller's.
    """
    target = np.frombuffer(placed.region.view, np.uint8)
    for start, size in placed.outputs.values():
        target[start : start + size] = 0
    for name, (start, _) in placed.inputs.items():
        for piece in raw[name]:
            size = nbytes(piece)
            target[start : start + size] = np.frombuffer(piece, np.uint8)
            start += size  # noqa: PLW2901 - where the next piece goes
