"""A limit for each kind of log record: a burst is logged, then one in ten seconds, and how many it stands for.

Kinds are told apart by logger, level and message template; records with an exception by where it was
raised instead, because one defect has many messages. Nothing is dropped silently: a record that was left out is
counted in `more_like_it` of a later one of its kind, or in the last one itself, which is logged when the time is
over. So the records in the log and their `more_like_it` add up to all that there were.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from copy import copy
from typing import Final

from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.errors import on_one_line

BURST: Final = 100
"""Records of a kind that are logged at once: a server with some dozens of models names each as it loads."""

TRACEBACKS: Final = 10
"""The same of records with an exception, which take a page each."""

INTERVAL_NS: Final = 10 * SECOND
"""Time between two records of a kind after its burst."""

QUIET_NS: Final = 60 * SECOND
"""A kind of which nothing came for so long may have a burst again."""

MAX_KINDS: Final = 1024
"""Kinds that are remembered; the one that is longest unheard of is forgotten for another."""

LONGEST: Final = 1024
"""Characters of a record that is kept to be logged later, and of a template that is remembered."""

OWN_LIMITS: Final = frozenset({"batcher.runtime.instances.children"})
"""Loggers that limit themselves: what child processes write."""

PRINTED: Final = "batcher.executors.python.printing"
"""The logger of what users' code prints, all of which has one template: it may log as much as a child."""

PRINTED_BURST: Final = 200
PRINTED_INTERVAL_NS: Final = SECOND // 20


class _Kind:
    """What is known of one kind of record."""

    __slots__ = ("count", "held", "interval_ns", "left", "next_ns", "seen_ns")

    def __init__(self, record: logging.LogRecord, now_ns: int) -> None:
        self.left = TRACEBACKS if record.exc_info else BURST
        """How many of the burst are left."""
        self.interval_ns = INTERVAL_NS
        if record.name == PRINTED:
            self.left, self.interval_ns = PRINTED_BURST, PRINTED_INTERVAL_NS
        self.next_ns = 0
        """When one more may be logged after the burst."""
        self.seen_ns = now_ns
        self.held: logging.LogRecord | None = None
        """The last one that was left out."""
        self.count = 0
        """How many were left out since the last that was logged."""

    def taken(self) -> logging.LogRecord:
        """The record that was held, which stands for all that were left out."""
        held, others = self.held, self.count - 1
        assert held is not None  # noqa: S101 - it is asked for only then
        if others:
            held.more_like_it = others
        self.held, self.count = None, 0
        return held


class LogLimiter(logging.Filter):
    """A filter for a handler. `emit` logs a record that was held back, without asking this filter.

    Records may come from any thread. Call `close` at the end, which logs what is held.
    """

    def __init__(
        self,
        emit: Callable[[logging.LogRecord], None],
        clock: Clock = monotonic_ns,
        timer: Callable[[float, Callable[[], None]], threading.Timer] = threading.Timer,
    ) -> None:
        super().__init__()
        self._emit = emit
        self._clock = clock
        self._new_timer = timer
        # A text that is made meanwhile, or a finalizer, may log as well.
        self._lock = threading.RLock()
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._holding: dict[Hashable, _Kind] = {}
        self._timer: threading.Timer | None = None
        self._closed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record now. Never raises."""
        if record.name in OWN_LIMITS:
            return True
        forgotten: logging.LogRecord | None = None
        with self._lock:
            now_ns = self._clock()
            key = _kind_of(record)
            kind = self._kinds.get(key)
            if kind is None or (kind.held is None and now_ns - kind.seen_ns >= QUIET_NS):
                kind = self._kinds[key] = _Kind(record, now_ns)
                forgotten = self._forget()
            self._kinds.move_to_end(key)
            kind.seen_ns = now_ns
            log_it = self._closed or self._may(kind, now_ns)
            if log_it:
                if kind.count:
                    record.more_like_it = kind.count
                    kind.held, kind.count = None, 0
                    self._holding.pop(key, None)
            else:
                kind.count += 1
                kind.held = _kept(record)
                self._holding[key] = kind
                self._arm(kind.next_ns - now_ns)
        if forgotten is not None:
            self._emit(forgotten)
        return log_it

    def close(self) -> None:
        """Log what is held, and limit nothing from now on."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            held = [kind.taken() for kind in self._holding.values()]
            self._holding.clear()
        for record in held:
            self._emit(record)

    def _may(self, kind: _Kind, now_ns: int) -> bool:
        if kind.left:
            kind.left -= 1
        elif now_ns < kind.next_ns:
            return False
        kind.next_ns = now_ns + kind.interval_ns
        return True

    def _forget(self) -> logging.LogRecord | None:
        """Make room for a kind; returns what was held of the one that had to go."""
        if len(self._kinds) <= MAX_KINDS:
            return None
        key, kind = self._kinds.popitem(last=False)
        self._holding.pop(key, None)
        return None if kind.held is None else kind.taken()

    def _arm(self, wait_ns: int) -> None:
        if self._timer is None:
            timer = self._new_timer(max(wait_ns, 0) / SECOND, self._time_is_over)
            timer.daemon = True
            # Without a thread, as the process ends, the next record or `close` says what is held.
            with contextlib.suppress(RuntimeError):
                timer.start()
                self._timer = timer

    def _time_is_over(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed:
                return
            now_ns = self._clock()
            due = list(self._due(now_ns))
            if self._holding:
                first_ns = min(kind.next_ns for kind in self._holding.values())
                self._arm(first_ns - now_ns)
        for record in due:
            self._emit(record)

    def _due(self, now_ns: int) -> Iterator[logging.LogRecord]:
        for key, kind in list(self._holding.items()):
            if now_ns >= kind.next_ns:
                del self._holding[key]
                kind.next_ns = now_ns + kind.interval_ns
                yield kind.taken()


def _kind_of(record: logging.LogRecord) -> Hashable:
    where = _origin(record)
    if where is None:
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        where = template[:LONGEST]
    return record.name, record.levelno, where


def _origin(record: logging.LogRecord) -> Hashable:
    """The class of the record's exception and where it was raised; None without one."""
    if not record.exc_info or record.exc_info[0] is None:
        return None
    kind, _, trace = record.exc_info
    if trace is None:
        return kind.__qualname__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return kind.__qualname__, trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _kept(record: logging.LogRecord) -> logging.LogRecord:
    """The record without what it refers to: arguments, and the frames of its traceback."""
    kept = copy(record)
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - a template that its arguments do not fit
        text = str(record.msg)
    kept.msg, kept.args = text[:LONGEST], None
    if record.exc_info and record.exc_info[0] is not None:
        kept.error = f"{record.exc_info[0].__qualname__}: {on_one_line(str(record.exc_info[1]))}"
    kept.exc_info = kept.exc_text = None
    return kept
