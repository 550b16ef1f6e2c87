"""What one call holds in `Buffers`: charged as it comes, released at the end; and what takes too long."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from batcher.http2 import grpc_headers
from batcher.http2.decompression import FIRST_STEP, STEP, Decompressor
from batcher.http2.grpc_headers import PREFIX_BYTES
from batcher.http2.sansio.streams import Stream
from batcher.http2.timeouts import StallTimer

if TYPE_CHECKING:
    from batcher.buffers import Claim
    from batcher.http2.server_connection import ServerConnection


LARGE_MESSAGE = 2**20
"""A larger message is put together on a thread: 64 MiB take 20 ms and more."""
PIECE = 2**16
"""Bytes of its pieces."""


class LargeMessage:
    """A large message that is coming, in pieces: to join `bytes`, and nothing else, lets others run."""

    __slots__ = ("_tail", "compressed", "left", "pieces", "size")

    def __init__(self, compressed: int, size: int) -> None:
        self.compressed = compressed
        self.size = size
        self.left = size
        """Bytes that are to come."""
        self.pieces: list[bytes] = []
        self._tail = bytearray()

    def add(self, data: memoryview) -> int:
        """Take what is the message's of the bytes that came next; returns how many these are."""
        taken = min(len(data), self.left)
        self._tail += data[:taken]
        self.left -= taken
        if len(self._tail) >= PIECE or not self.left:
            self.pieces.append(bytes(self._tail))
            self._tail.clear()
        return taken


class CallBuffers:
    """The part of a `Call` that knows its bytes. `end` and `cancel` are the call's."""

    __slots__ = (
        "_ahead",
        "_buffer",
        "_charged",
        "_claim",
        "_client",
        "_coming",
        "_encoding",
        "_large",
        "_unread",
        "stream",
    )

    def __init__(
        self, client: ServerConnection, stream: Stream, encoding: str, charged: int
    ) -> None:
        self.stream = stream
        self._client = client
        self._encoding = encoding
        self._buffer: bytes | bytearray = b""
        """What has come of the next message."""
        self._large: LargeMessage | None = None
        """The next message where it is large; `_buffer` is empty then."""
        self._charged = charged
        """Bytes in `Buffers`: the call's own, its messages, and what is to come of one."""
        self._ahead = 0
        """Those of them that are to come."""
        self._claim: Claim | None = None
        """A window that waits for room."""
        self._coming: StallTimer | None = None
        """How its message comes, as sweeps have seen it."""
        self._unread: StallTimer | None = None
        """How its answer is read, the same."""

    def end(
        self,
        code: grpc.StatusCode,
        details: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Send the status."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        raise NotImplementedError

    def sweep_receiving(self, elapsed_ns: int, limit_ns: int) -> None:
        """End the call where its message has not begun, or makes no progress, for so long."""
        came = 0 if self._claim is not None else self._came
        if self._coming is None:
            self._coming = StallTimer(came)
        if self._claim is not None:
            if self._coming.look(came, elapsed_ns) >= limit_ns:
                self._end_for_room(self._claim.size)
        # Without credit, or where nothing is read, it is not the client that is waited for.
        elif (
            self.stream.receive_window > 0
            and self._client.writable.is_set()
            and self._coming.look(came, elapsed_ns) >= limit_ns
        ):
            self._stalled("its message made no progress (server.receive_timeout)")

    def sweep_sending(self, elapsed_ns: int, limit_ns: int) -> None:
        """End the call where what it answers makes no progress for so long."""
        sent = -sum(map(len, self.stream.outbox))
        if self._unread is None:
            self._unread = StallTimer(sent)
        if self._unread.look(sent, elapsed_ns) >= limit_ns:
            self._stalled("its answer was not read (server.write_timeout)")

    @property
    def charged(self) -> int:
        """Bytes that it holds."""
        return self._charged

    def give_way(self) -> None:
        """End the call: others find no room beside its connection."""
        self._end_for_room(self._charged)
        self._release(self._charged)  # a task of it ends in a moment

    @property
    def _came(self) -> int:
        """Bytes of the next message that have come."""
        large = self._large
        return len(self._buffer) if large is None else PREFIX_BYTES + large.size - large.left

    def _expect(self, size: int) -> None:
        """Have the client send that many bytes, once there is room for them."""
        if size <= self.stream.receive_window or self._claim is not None:
            return
        if size <= self._ahead:
            self._client.connection.allow(self.stream, size)
            return
        self._coming = None
        claim = self._client.account.claim(size - self._ahead, self._granted)
        if claim.waits:
            self._claim = claim

    async def _whole(self, data: bytes | list[bytes], compressed: int) -> bytes:
        """A message as its sender had it; what it is by then is charged. Raises `MalformedCallError`."""
        if not isinstance(data, bytes):
            offload_pool = self._client.server.offload_pool
            data = await self._client.loop.run_in_executor(offload_pool, b"".join, data)
        if not compressed:
            return data
        whole = await self._inflated(data)
        self._release(len(data))
        return whole

    async def _inflated(self, data: bytes) -> bytes:
        """What a message was before it was compressed; it is charged. Raises `MalformedCallError`."""
        server, loop = self._client.server, self._client.loop
        decompressor = Decompressor(data, self._encoding, server.max_message)
        reserved = 0
        try:
            complete = decompressor.step(FIRST_STEP)
            self._reserve(decompressor.size)
            reserved = decompressor.size
            while not complete:
                size = min(STEP, server.max_message + 1 - decompressor.size)
                self._reserve(size)
                reserved += size
                step = functools.partial(decompressor.step, size)
                complete = await loop.run_in_executor(server.offload_pool, step)
            return decompressor.message()
        finally:
            self._release(max(reserved - decompressor.size, 0))

    def _withdraw(self) -> None:
        """No window is waited for any more."""
        if self._claim is not None:
            claim, self._claim = self._claim, None
            self._client.account.withdraw(claim)

    def _granted(self, size: int) -> None:
        """There is room for the rest of a message."""
        if self._claim is not None:
            # It has waited, and some of it may have come meanwhile.
            self._claim = None
            whole = PREFIX_BYTES + int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")
            missing = whole - self._came if self._large is None else self._large.left
            if missing < size:
                self._client.account.came(size - missing)
                self._client.server.buffers.release(size - missing)
                size = missing
        self._coming = None
        self._ahead += size
        self._charged += size
        self._client.connection.allow(self.stream, self._ahead)
        self._client.flush_soon()

    def _reserve(self, size: int) -> None:
        """Charge bytes. Raises `MalformedCallError` where there is no room for them."""
        server = self._client.server
        if not server.buffers.reserve(size) and not server.make_room(self._client, size):
            server.buffers.refused += 1
            raise grpc_headers.no_room(size, server.buffers.limit)
        self._charged += size

    def _release(self, size: int) -> None:
        size = min(size, self._charged)  # nothing is left of a call that was dropped
        self._charged -= size
        self._client.server.buffers.release(size)

    def _end_for_room(self, size: int) -> None:
        """End the call because there is no room for what comes."""
        self._end_without_room(size)
        self._client.flush_soon()
        self.cancel()

    def _end_without_room(self, size: int) -> None:
        buffers = self._client.server.buffers
        buffers.refused += 1
        error = grpc_headers.no_room(size, buffers.limit)
        self.end(error.code, str(error), error.metadata)

    def _stalled(self, why: str) -> None:
        self._client.server.counters.stalled_calls += 1
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, f"the call ends: {why}")
        self._client.flush_soon()
        self.cancel()
