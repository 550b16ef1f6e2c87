"""Records the scheduler's steps, off the hot path.

`record` appends references to a step's events and commands to a list; these are immutable values. A
thread packs them in blocks and gives the bytes to the sinks: the memory of the flight recorder, the
files of the journal. Segments end on the event loop, because a snapshot of the scheduler can be
taken only there, between two steps; the thread asks for the end of a segment that is too large.

The event loop never waits for the thread. If the thread is too far behind, steps are dropped until
it has caught up; then a segment begins with a new snapshot, so that everything after the gap
replays.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from batcher import __version__
from batcher.clock import Clock, monotonic_ns
from batcher.config import sections_in_force
from batcher.core.commands import Command
from batcher.core.events import Event, RequestArrived
from batcher.core.state import State
from batcher.journal.codec import CodecError, Encoder, schema
from batcher.journal.fingerprint import scheduler_fingerprint
from batcher.journal.format import Counts, Opening, end_frame, opening_bytes, steps_frame

log = logging.getLogger(__name__)

MAX_WAITING_STEPS: Final = 8_192
"""Steps that may wait for the thread; beyond it, steps are dropped."""

BLOCK: Final = 128
"""Steps that are packed at once. Packing holds the interpreter, so it bounds what the loop waits."""

GATHER_S: Final = 0.05
"""Seconds that the thread waits after the first step, so that it packs several at once."""

_Step: TypeAlias = tuple[int, Sequence[Event], Sequence[Command]]


class Sink(Protocol):
    """Takes the bytes of segments. Called on the recorder's thread; must not raise or block."""

    def begin(self, now_ns: int, opening: bytes) -> None:
        """Begin a segment."""
        ...

    def add(self, frame: bytes) -> None:
        """Add a frame to it."""
        ...

    def close(self) -> None:
        """End: nothing follows."""
        ...


@dataclass(frozen=True, slots=True)
class _Opened:
    """The beginning of a segment, with its snapshot."""

    number: int
    now_ns: int
    wall_ns: int
    state: State
    lost: int
    """Steps before it that were dropped."""
    models: Mapping[str, Mapping[str, Any]]
    """The settings of each model that it begins with."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A future that is done when the sinks have everything before it."""

    reached: Future[None]

    def reach(self) -> None:
        """Resolve the future, once."""
        if not self.reached.done():
            self.reached.set_result(None)


class Recorder:
    """Records steps into `sinks`. Owns the thread that packs them.

    `snapshot` returns the scheduler's state between two steps. A segment ends after `segment_ns` or
    `most_bytes`. `models` returns the models' settings, on the event loop; the head of each segment has those
    in force at its beginning.
    """

    def __init__(
        self,
        snapshot: Callable[[], State],
        sinks: Sequence[Sink],
        *,
        segment_ns: int,
        most_bytes: int,
        models: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        clock: Clock = monotonic_ns,
        wall: Clock = time.time_ns,
    ) -> None:
        self.lost_segments = 0
        """Segments that lack steps: the thread was too far behind, or could not pack them."""
        self._snapshot = snapshot
        self._sinks = sinks
        self._segment_ns = segment_ns
        self._most_bytes = most_bytes
        self._models = models
        self._wall = wall
        self._log = uuid.uuid4().hex
        self._buffer: list[_Step | _Opened | _Mark] = []
        self._ends_ns = 0
        self._number = 0
        self._lost = 0
        self._sleeping = False
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._writing = _Writing()
        self._open(clock())
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    # On the event loop's thread

    def record(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Record a step of the scheduler. Call it right after the step."""
        buffer = self._buffer
        if self._lost or len(buffer) > MAX_WAITING_STEPS:
            self._drop_step(now_ns)
            return
        buffer.append((now_ns, events, commands))
        if self._sleeping:
            self._awake.set()
        if now_ns >= self._ends_ns:
            self._open(now_ns)

    def mark(self) -> Future[None]:
        """Return a future that is done when the sinks have all steps so far. It cannot be cancelled."""
        mark = _Mark(Future())
        mark.reached.set_running_or_notify_cancel()
        self._buffer.append(mark)
        self._awake.set()
        return mark.reached

    def close(self) -> None:
        """Write the remaining steps and end the thread. Do not call `record` after this."""
        self._closing.set()
        self._awake.set()
        self._thread.join()
        for sink in self._sinks:
            sink.close()

    def _drop_step(self, now_ns: int) -> None:
        if not self._lost:
            self.lost_segments += 1
            log.error(
                "the event log is behind: steps are dropped until its thread has caught up. Give the"
                " process more processor time, or turn off the event log (journal, flight_recorder)"
            )
        self._lost += 1
        if len(self._buffer) <= MAX_WAITING_STEPS // 2:
            log.warning(
                "the event log has caught up: %d steps were dropped, a new segment begins",
                self._lost,
            )
            self._open(now_ns)

    def _open(self, now_ns: int) -> None:
        opened = _Opened(
            self._number, now_ns, self._wall(), self._snapshot(), self._lost, self._models()
        )
        self._buffer.append(opened)
        self._number += 1
        self._lost = 0
        self._ends_ns = now_ns + self._segment_ns

    # On the recorder's thread

    def _run(self) -> None:
        buffer, closing = self._buffer, self._closing
        while True:
            self._sleeping = True
            # A step before this line is seen here; one after it sets the event.
            if not buffer and not closing.is_set():
                self._awake.wait()
            self._sleeping = False
            self._awake.clear()
            if not any(type(item) is _Mark for item in buffer[-1:]):
                closing.wait(GATHER_S)
            while buffer:
                items = buffer[:BLOCK]
                del buffer[: len(items)]
                self._process_safely(items)
                time.sleep(0)  # the event loop goes first
            if closing.is_set() and not buffer:
                self._end(0)
                return

    def _process_safely(self, items: list[_Step | _Opened | _Mark]) -> None:
        """Process items; an exception loses the rest of this segment, not later ones."""
        try:
            self._process(items)
        except Exception:
            log.exception(
                "internal error: steps cannot be recorded; the rest of this segment is lost"
            )
            self._writing.broken = True
            self.lost_segments += 1
            for item in items:
                if isinstance(item, _Mark):
                    item.reach()

    def _process(self, items: list[_Step | _Opened | _Mark]) -> None:
        steps = [item for item in items if type(item) is tuple]
        if len(steps) == len(items):
            self._pack(steps)
            return
        steps = []
        for item in items:
            if type(item) is tuple:
                steps.append(item)
                continue
            self._pack(steps)
            steps = []
            if isinstance(item, _Opened):
                self._begin(item)
            elif isinstance(item, _Mark):
                item.reach()
        self._pack(steps)

    def _pack(self, steps: list[_Step]) -> None:
        if not steps:
            return
        writing = self._writing
        if writing.broken:
            return
        try:
            packed = writing.encoder.pack(steps)
        except CodecError:
            if len(steps) > 1:  # find the one that cannot
                for step in steps:
                    self._pack([step])
                return
            log.exception("internal error: a step cannot be recorded; its segment ends there")
            self._break()
            return
        requests = 0
        for _, events, _ in steps:
            for event in events:
                if type(event) is RequestArrived:
                    requests += 1
        writing.steps += len(steps)
        self._add(steps_frame(Counts(len(steps), requests, steps[-1][0]), packed))
        if writing.nbytes > self._most_bytes:
            self._ends_ns = 0  # the next step ends the segment

    def _begin(self, opened: _Opened) -> None:
        self._end(opened.lost)
        opening = Opening(
            log=self._log,
            number=opened.number,
            now_ns=opened.now_ns,
            wall_ns=opened.wall_ns,
            version=__version__,
            scheduler=scheduler_fingerprint(),
            schema=schema(),
            models=_in_force(opened),
        )
        writing = self._writing = _Writing(self._writing.encoder, begun=True)
        try:
            begins = opening_bytes(opening, writing.encoder.pack(opened.state))
        except CodecError:
            log.exception(
                "internal error: the scheduler's state cannot be recorded; this segment is lost"
            )
            self._break()
            return
        writing.nbytes = len(begins)
        for sink in self._sinks:
            sink.begin(opened.now_ns, begins)

    def _end(self, lost: int) -> None:
        writing = self._writing
        if writing.begun and not writing.broken:
            self._add(end_frame(writing.steps, lost))

    def _break(self) -> None:
        self._writing.broken = True
        self.lost_segments += 1
        self._ends_ns = 0

    def _add(self, frame: bytes) -> None:
        self._writing.nbytes += len(frame)
        for sink in self._sinks:
            sink.add(frame)


def _in_force(opened: _Opened) -> Mapping[str, Mapping[str, Any]]:
    """The settings of each model as the scheduler has them."""
    now = {model.model: model.settings for model in opened.state.models}
    return {
        name: sections_in_force(sections, now[name]) if name in now else sections
        for name, sections in opened.models.items()
    }


class _Writing:
    """The segment that the thread is writing."""

    __slots__ = ("begun", "broken", "encoder", "nbytes", "steps")

    def __init__(self, encoder: Encoder | None = None, *, begun: bool = False) -> None:
        self.encoder = encoder or Encoder()
        self.begun = begun
        self.broken = False
        self.steps = 0
        self.nbytes = 0
