"""Requests to one replica at a rate that may change, and how they ended as its callers saw it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

import grpc
from truth.generator import PATH, message

TIMEOUT_S = 60.0
STEP_S = 0.05
"""How soon a change of the rate is seen."""

UNREACHABLE_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class Load:
    """As a context manager: sends while it is open. `rate` is requests a second and may be set at any time."""

    def __init__(self, address: str, rate: float, model: str = "hello", rows: int = 1) -> None:
        self.rate = rate
        self.ended: Counter[str] = Counter()
        """How many ended with each status."""
        self._model, self._rows = model, rows
        self._channel = grpc.insecure_channel(address, options=UNREACHABLE_OPTIONS)
        self._call = self._channel.unary_unary(PATH)
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._send_all, name=f"load {address}")
        self._number = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._channel.close()

    def send(self, deed: int = 0) -> None:
        """Send one request that asks the model for that."""
        with self._guard:
            self._number += 1
            number = self._number
        request = message(number, self._model, self._rows, deed)
        self._call.future(request, timeout=TIMEOUT_S).add_done_callback(self._note)

    def _note(self, call: grpc.Future) -> None:
        code = call.code()
        with self._guard:
            self.ended["CANCELLED" if code is None else code.name] += 1

    def _send_all(self) -> None:
        due_s = time.monotonic()
        while not self._over.is_set():
            now_s, rate = time.monotonic(), self.rate
            if rate <= 0:
                due_s = now_s + STEP_S
            elif due_s <= now_s:
                self.send()
                # What could not be sent in time because this process stood still is not sent at once.
                due_s = max(due_s, now_s - STEP_S) + 1 / rate
                continue
            self._over.wait(min(due_s - now_s, STEP_S))
