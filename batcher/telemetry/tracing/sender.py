"""Sends what is traced from a thread of its own, so that no collector can hold up the event loop.

The event loop appends to a bounded queue. The thread takes records from it, makes their spans and
exports them, a block at a time: making spans holds the interpreter, and a block is what the event loop
may have to wait for. A collector that hangs makes the queue fill up; then requests are not traced.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Final, Protocol

from batcher.telemetry.tracing.records import Traced

log = logging.getLogger(__name__)

BLOCK: Final = 128
"""Records whose spans are made and sent at once, 1 to 7 spans each. Making them takes about 2 ms, in which
the event loop may wait for the interpreter. A call to the collector costs as much as the spans of 50 records:
with blocks of 16, sending costs twice as much."""

INTERVAL_S: Final = 1.0
"""Seconds between two looks at the queue: how old spans get before they are sent."""

FLUSH_S: Final = 5.0
"""Seconds that what waits may take to be sent when the server stops; then it is dropped."""

IDLE_RATIO: Final = 1.0
"""After a block the thread rests for this many times the processor time that it took, so that it takes half of
a core at most, however much is traced: the event loop shares the interpreter with it. At 0.7, three fifths."""

_ABORT_S: Final = 0.5
"""Seconds that an export which was aborted may take to end."""


class Exporter(Protocol):
    """Makes spans of records and sends them. `export` is called on the sender's thread."""

    def export(self, records: Sequence[Traced]) -> tuple[int, str]:
        """Send the spans; returns their number, and why they could not be sent ("" if they were)."""
        ...

    def abort(self) -> None:
        """Send nothing more: from any thread, also while `export` runs, which should then return."""
        ...

    def close(self) -> None:
        """End; no method is called any more."""
        ...


class SpanSender:
    """A bounded queue of records, and the thread that sends them.

    `exported`, `failed` and `dropped` count spans: sent, not taken by the collector, and those of
    requests that found the queue full or were left at the end.
    """

    def __init__(self, exporter: Exporter, size: int, interval_s: float = INTERVAL_S) -> None:
        self.exported = self.failed = self.dropped = 0
        self._exporter = exporter
        self._queue: deque[Traced] = deque()
        self._size = size
        self._full_enough = max(1, size // 2)
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._outage = False
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records in the queue."""
        return len(self._queue)

    def counts(self) -> dict[str, int]:
        """Spans by what became of them, as `batcher_trace_spans_total` counts them."""
        return {"exported": self.exported, "failed": self.failed, "dropped": self.dropped}

    def put(self, record: Traced, spans: Callable[[], int]) -> None:
        """Have the record sent; if the queue is full it is dropped, and its number of spans counted."""
        waiting = len(self._queue)
        if waiting >= self._size or self._ending.is_set():
            self.dropped += spans()
            return
        self._queue.append(record)
        if waiting + 1 == self._full_enough:
            self._wake.set()

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Send what waits, for at most `timeout_s` seconds, and end the thread. Blocks."""
        self._ending.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        left = len(self._queue)
        self._queue.clear()
        self._exporter.abort()
        if self._thread.is_alive():
            self._thread.join(_ABORT_S)
            log.warning(
                "the collector has not taken all spans within %g s; they are lost", timeout_s
            )
        elif left:
            log.warning("%d traced requests and batches were not sent", left)
        self._exporter.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            while self._queue:
                began_s = thread_time()
                self._send()
                self._ending.wait(IDLE_RATIO * (thread_time() - began_s))

    def _send(self) -> None:
        block: list[Traced] = []
        try:
            while len(block) < BLOCK:
                block.append(self._queue.popleft())
        except IndexError:  # empty, perhaps because it was closed meanwhile
            pass
        if not block:
            return
        try:
            spans, problem = self._exporter.export(block)
        except Exception as error:  # noqa: BLE001 - a library may raise anything; it is logged below
            spans, problem = len(block), f"{type(error).__name__}: {error}"
        if problem:
            self.failed += spans
            if not self._outage:
                log.warning(
                    "spans cannot be sent, and are lost until that works again: %s", problem
                )
        else:
            self.exported += spans
            if self._outage:
                log.info("spans are sent again; %d were lost so far", self.failed)
        self._outage = bool(problem)
