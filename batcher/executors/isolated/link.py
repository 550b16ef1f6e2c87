"""The server's end of the socket to a child, on the event loop: nothing here waits for the child."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from batcher.executors.isolated.frames import MAX_MESSAGE, FrameError, Frames, frame

_READ: Final = 256 * 1024
"""Bytes read in one iteration of the event loop: more than fits a socket's buffer by default."""

MAX_UNSENT: Final = 2 * MAX_MESSAGE
"""Bytes that wait for a child that does not read."""


class Link:
    """Messages in both directions. Call every method on the loop.

    `received` gets each message, `broken` is called once: with why the child's bytes are no messages,
    or why it takes none; with an empty text when it has closed its end.
    """

    def __init__(
        self,
        end: socket.socket,
        loop: asyncio.AbstractEventLoop,
        received: Callable[[list[Any]], None],
        broken: Callable[[str], None],
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._loop = loop
        self._received = received
        self._broken = broken
        self._frames = Frames()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._reading = True
        self._closed = False
        loop.add_reader(end.fileno(), self._read)

    def send(self, message: list[Any]) -> None:
        """Send it, now or when the child reads. Raises what `frame` raises.

        A child that has closed its end gets nothing, and its end is reported by `broken`.
        """
        data = frame(message)
        if self._closed:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                pass
            except OSError:
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._socket.fileno(), self._write)
        self._unsent.append(memoryview(data)[sent:])
        self._unsent_bytes += len(data) - sent
        if self._unsent_bytes > MAX_UNSENT:
            self._end(f"it does not read: {self._unsent_bytes} bytes wait for it")

    def drain(self) -> None:
        """Take what a child that has ended left in the socket."""
        while self._reading and not self._closed:
            if not self._read():
                return

    def close(self) -> None:
        """Close the socket: nothing is reported any more."""
        if not self._closed:
            self._closed = True
            self._stop()
            self._socket.close()

    def _stop(self) -> None:
        self._reading = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._unsent.clear()
        self._unsent_bytes = 0

    def _end(self, why: str) -> None:
        if self._reading:
            self._stop()
            self._broken(why)

    def _read(self) -> bool:
        """Take what has arrived; returns whether there was something."""
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end("")
            return False
        try:
            for message in self._frames.feed(data):
                self._received(message)
                if not self._reading:
                    return False
        except FrameError as error:
            self._end(f"it sent {error}")
            return False
        return True

    def _write(self) -> None:
        while self._unsent:
            data = self._unsent[0]
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._unsent.clear()
                break
            self._unsent_bytes -= sent
            if sent < len(data):
                self._unsent[0] = data[sent:]
                return
            self._unsent.popleft()
        self._unsent_bytes = 0
        self._loop.remove_writer(self._socket.fileno())
