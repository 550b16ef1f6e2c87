"""Writing down what the scheduler is told and what it answers, off the hot path.

`record` keeps references to the events and commands of a step in a list and goes on: they are
values that nobody changes. A thread of its own packs them in blocks and hands the bytes to the
sinks: the memory of the flight recorder, the files of the journal. Segments end on the event loop,
because that is where the scheduler's state between two steps can be taken; the thread asks for it
when one has grown too large.

Nothing waits for the thread. When it is too far behind, steps are let go until it has caught up, and
then a segment begins with a state of that moment: what was lost is a stretch of time, and all that
follows replays.
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

MOST_WAITING: Final = 8_192
"""Steps that wait for the thread; beyond it they are lost."""

BLOCK: Final = 128
"""Steps that are packed at once: the event loop waits for the interpreter for no longer than that."""

GATHER_S: Final = 0.05
"""How long the thread lets steps gather once there is one."""

_Step: TypeAlias = tuple[int, Sequence[Event], Sequence[Command]]


class Sink(Protocol):
    """Where the bytes of segments go. Called on the recorder's thread; must not raise or wait."""

    def begin(self, now_ns: int, opening: bytes) -> None:
        """A segment begins."""
        ...

    def add(self, frame: bytes) -> None:
        """A frame of it."""
        ...

    def close(self) -> None:
        """There is nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class _Opened:
    """A segment begins here, with this state."""

    number: int
    now_ns: int
    wall_ns: int
    state: State
    lost: int
    """Steps before it that were let go."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Somebody waits until everything before this is with the sinks."""

    reached: Future[None]

    def reach(self) -> None:
        """Tell whoever waits, once."""
        if not self.reached.done():
            self.reached.set_result(None)


class Recorder:
    """The hot end, on the event loop's thread, and the thread behind it.

    `snapshot` gives the scheduler's state between two steps. A segment is `segment_ns` long, or
    `most_bytes` large. `models` are the sections of the models' settings at the start; the opening of each segment
    has those that are in force when it begins.
    """

    def __init__(
        self,
        snapshot: Callable[[], State],
        sinks: Sequence[Sink],
        *,
        segment_ns: int,
        most_bytes: int,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Clock = monotonic_ns,
        wall: Clock = time.time_ns,
    ) -> None:
        self.lost_segments = 0
        """Segments that miss steps: the thread was too far behind, or could not record them."""
        self._snapshot = snapshot
        self._sinks = sinks
        self._segment_ns = segment_ns
        self._most_bytes = most_bytes
        self._models = dict(models or {})
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
        """Take note of a step that the scheduler has just made."""
        buffer = self._buffer
        if self._lost or len(buffer) > MOST_WAITING:
            self._let_go(now_ns)
            return
        buffer.append((now_ns, events, commands))
        if self._sleeping:
            self._awake.set()
        if now_ns >= self._ends_ns:
            self._open(now_ns)

    def mark(self) -> Future[None]:
        """Done when all that was recorded so far is with the sinks. Nobody can cancel it."""
        mark = _Mark(Future())
        mark.reached.set_running_or_notify_cancel()
        self._buffer.append(mark)
        self._awake.set()
        return mark.reached

    def close(self) -> None:
        """Write what is left, and end the thread. Nothing may be recorded any more."""
        self._closing.set()
        self._awake.set()
        self._thread.join()
        for sink in self._sinks:
            sink.close()

    def _let_go(self, now_ns: int) -> None:
        if not self._lost:
            self.lost_segments += 1
            log.error("the recorder is behind: steps are not recorded until it has caught up")
        self._lost += 1
        if len(self._buffer) <= MOST_WAITING // 2:
            log.warning("the recorder has caught up: %d steps were lost", self._lost)
            self._open(now_ns)

    def _open(self, now_ns: int) -> None:
        opened = _Opened(self._number, now_ns, self._wall(), self._snapshot(), self._lost)
        self._buffer.append(opened)
        self._number += 1
        self._lost = 0
        self._ends_ns = now_ns + self._segment_ns

    # On the recorder's thread

    def _run(self) -> None:
        buffer, closing = self._buffer, self._closing
        while True:
            self._sleeping = True
            # A step that came before this line is seen here, one after it wakes us.
            if not buffer and not closing.is_set():
                self._awake.wait()
            self._sleeping = False
            self._awake.clear()
            if not any(type(item) is _Mark for item in buffer[-1:]):
                closing.wait(GATHER_S)
            while buffer:
                items = buffer[:BLOCK]
                del buffer[: len(items)]
                self._try_to_take(items)
                time.sleep(0)  # the event loop goes first
            if closing.is_set() and not buffer:
                self._end(0)
                return

    def _try_to_take(self, items: list[_Step | _Opened | _Mark]) -> None:
        """Take them; whatever goes wrong costs the rest of the segment, not those after it."""
        try:
            self._take(items)
        except Exception:
            log.exception("steps cannot be recorded: the rest of their segment is lost")
            self._writing.broken = True
            self.lost_segments += 1
            for item in items:
                if isinstance(item, _Mark):
                    item.reach()

    def _take(self, items: list[_Step | _Opened | _Mark]) -> None:
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
            if len(steps) > 1:  # those before it can be
                for step in steps:
                    self._pack([step])
                return
            log.exception("a step cannot be recorded: its segment ends there")
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
            models=self._in_force(opened.state),
        )
        writing = self._writing = _Writing(self._writing.encoder, begun=True)
        try:
            begins = opening_bytes(opening, writing.encoder.pack(opened.state))
        except CodecError:
            log.exception("the scheduler's state cannot be recorded")
            self._break()
            return
        writing.nbytes = len(begins)
        for sink in self._sinks:
            sink.begin(opened.now_ns, begins)

    def _in_force(self, state: State) -> Mapping[str, Mapping[str, Any]]:
        now = {model.model: model.settings for model in state.models}
        return {
            name: sections_in_force(sections, now[name]) if name in now else sections
            for name, sections in self._models.items()
        }

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


class _Writing:
    """The segment that the thread is at."""

    __slots__ = ("begun", "broken", "encoder", "nbytes", "steps")

    def __init__(self, encoder: Encoder | None = None, *, begun: bool = False) -> None:
        self.encoder = encoder or Encoder()
        self.begun = begun
        self.broken = False
        self.steps = 0
        self.nbytes = 0
