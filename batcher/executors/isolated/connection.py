"""The child's end of the socket: it waits for the server, and may be used by several threads to send."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from typing import Any, Final

from batcher.executors.isolated.frames import Frames, frame
from batcher.executors.isolated.messages import CANCEL, LOST

_READ: Final = 256 * 1024


class Connection:
    """Messages in both directions. One thread receives; when the server is gone, the process ends."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._frames = Frames()
        self._arrived: deque[list[Any]] = deque()
        self._guard = threading.Lock()
        self._waited = False
        """Whether the last message came to a child that had nothing to do."""

    def next(self) -> list[Any]:
        """Wait for the next message."""
        self._waited = not self._arrived
        while not self._arrived:
            self._receive(0)
        return self._arrived.popleft()

    def next_of(self, kind: int, batch_id: int) -> list[Any]:
        """Wait for the message of this kind about a batch; others that arrive before it wait."""
        looked = 0
        while True:
            while looked == len(self._arrived):
                self._receive(0)
            message = self._arrived[looked]
            if message[0] == kind and message[1] == batch_id:
                del self._arrived[looked]
                return message
            looked += 1

    def cancelled(self, batch_id: int) -> bool:
        """Whether a message that has arrived cancels this batch."""
        if not self._waited:
            self._receive(socket.MSG_DONTWAIT)
        return any(each[0] == CANCEL and each[1] == batch_id for each in self._arrived)

    def arrived_of(self, kind: int) -> list[list[Any]]:
        """The messages of this kind that have arrived; others wait."""
        self._receive(socket.MSG_DONTWAIT)
        found = [each for each in self._arrived if each[0] == kind]
        if found:
            self._arrived = deque(each for each in self._arrived if each[0] != kind)
        return found

    def arrived(self) -> list[list[Any]]:
        """The messages that have arrived: for a loop that is told when there are some."""
        self._receive(socket.MSG_DONTWAIT)
        messages = list(self._arrived)
        self._arrived.clear()
        return messages

    def send(self, message: list[Any]) -> None:
        """Send a message. Raises what `frame` raises."""
        data = frame(message)
        try:
            with self._guard:
                self.socket.sendall(data)
        except OSError:
            os._exit(LOST)

    def _receive(self, flags: int) -> None:
        try:
            data = self.socket.recv(_READ, flags)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            os._exit(LOST)
        self._arrived += self._frames.feed(data)
