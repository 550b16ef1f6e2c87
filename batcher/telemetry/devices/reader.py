"""Reads NVML on a thread of its own, because a driver may hang, for good.

    thread:      init ─ GPU 0 ─ GPU 1 ─ wait for events (1 s) ─ GPU 0 ─ GPU 1 (does not return) ···
    event loop:  check       check       check      check     check: GPU 1 hangs, another thread reads GPU 0

A thread whose call does not return is abandoned, and a new one reads the other GPUs. The call is not tried again:
should it return, that thread ends and its GPU is read again. So there is at most one such thread for each GPU. Where
NVML itself hangs (its initialization, its events) no other thread would fare better, and none is started.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from batcher.clock import MILLISECOND, SECOND, Clock
from batcher.errors import describe
from batcher.telemetry.devices.nvml import (
    LibraryMissingError,
    Nvml,
    load_nvml,
    state_of,
    text_of,
)
from batcher.telemetry.devices.reading import GpuLost, NotInitialized, Target, read
from batcher.telemetry.devices.records import Known, Record
from batcher.telemetry.devices.session import Claimed, Session
from batcher.telemetry.devices.statistics import DeviceState

log = logging.getLogger(__name__)

INTERVAL_NS: Final = SECOND
"""Between two readings of a GPU. NVML averages utilization over a sixth of a second to a second."""

READ_LIMIT_NS: Final = 10 * SECOND
"""How long the reading of one GPU, or a wait for events, may take before it counts as hanging. Usual are some
milliseconds; a second where the driver is busy."""

OPEN_LIMIT_NS: Final = 60 * SECOND
"""The same of an initialization: without persistence mode the driver starts each GPU first, which takes seconds."""

REOPEN_NS: Final = 30 * SECOND
"""After how long NVML is initialized again while a GPU is missing or lost, or NVML could not be initialized: only
then it looks for GPUs."""

WAIT_MS: Final = 250
"""The longest single wait for events, and so for the end of the thread."""

MOST_WAITS: Final = 100
"""Waits for events between two readings. Beyond them, events come a few a second: the thread must not keep other
threads from running, whatever NVML reports, or if its waits return at once."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call of NVML that a thread is in."""

    what: str
    uuid: str | None
    """The GPU that it reads; None if it concerns all."""
    since_ns: int
    limit_ns: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why nothing can be read at all."""

    state: DeviceState
    reason: str


class _Replaced(Exception):
    """Another thread reads now, or the reader was closed."""


class Reader:
    """Reads the GPUs that `wanted` says. `changed` is called on its threads when there is something new.

    Call `start`, `check` (often) and `close` on one thread, the event loop's.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        clock: Clock,
        *,
        load: Callable[[], Nvml] = load_nvml,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.wanted: Mapping[str, Claimed] = {}
        """Device -> its GPU. Replace it to change it."""
        self.found: Mapping[str, Record | Problem] = {}
        """Device -> the GPU that was found, or why none was."""
        self.problem: Problem | None = None
        """Why nothing can be read."""
        self.hanging: dict[str, str] = {}
        """UUID of a GPU -> what does not return."""
        self.records: dict[str, Record] = {}
        self.changed = changed
        self.clock = clock
        self.load = load
        self.environ = environ
        self._bound: dict[tuple[str, Claimed], str] = {}
        """Device and its GPU -> the UUID. It stays: numbers change where a GPU is lost, and contexts do not move."""
        self._places: dict[int, set[str]] = {}
        """Number of a GPU -> the UUIDs of it and its instances, as NVML had them last."""
        self._current: _Thread | None = None
        self._closed = False

    @property
    def running(self) -> bool:
        """Whether a thread reads, or tries to."""
        return self._current is not None and self._current.thread.is_alive()

    @property
    def stuck(self) -> str:
        """What of NVML itself does not return; empty if all does."""
        return "" if self._current is None else self._current.stuck

    def start(self) -> None:
        """Begin to read, unless it does already."""
        if self._current is None and not self._closed:
            self._current = _Thread(self)
            self._current.thread.start()

    def check(self) -> None:
        """Abandon a thread whose call does not return, and begin another one."""
        current = self._current
        if current is None or self._closed:
            return
        step, now_ns = current.step, self.clock()
        if step is None or now_ns - step.since_ns < step.limit_ns:
            if current.stuck:
                current.stuck = ""
                log.warning("NVML answers again")
                self.changed()
            return
        why = f"{step.what} has not returned for {(now_ns - step.since_ns) / SECOND:.0f} s"
        if step.uuid is None:
            if not current.stuck:
                log.error("%s: nothing of any GPU is known until it does", why)
            current.stuck = why
        else:
            log.error("%s: the thread is abandoned; other GPUs are read on", why)
            self.hanging = {**self.hanging, step.uuid: why}
            current.hung = step.uuid
            current.replaced = True
            current.wake.set()
            self._current = _Thread(self, current.session)
            self._current.thread.start()
        self.changed()

    def close(self, timeout_s: float) -> None:
        """End the thread; wait for that at most so many seconds, and not at all for one that hangs."""
        self._closed = True
        current = self._current
        if current is None:
            return
        current.replaced = True
        current.wake.set()
        if not current.stuck:
            current.thread.join(timeout_s)

    # On the reading thread

    def opened(self, session: Session) -> None:
        """Note what an initialization says of GPUs that were read before: of a lost one it may not have the UUID."""
        now_ns = self.clock()
        lost = {
            uuid: reset
            for index, reset in session.refused.items()
            for uuid in self._places.get(index, ())
        }
        for gpu in session.gpus:
            if gpu.uuid:
                self._places[gpu.index] = {gpu.uuid, *(each.uuid for each in gpu.instances)}
        for uuid, record in self.records.items():
            if session.has(uuid) or uuid in self.hanging:
                continue
            if uuid in lost:
                record.faults.lost(now_ns, reset=lost[uuid])
                why = "NVML: it is lost" if not lost[uuid] else "NVML: it has to be reset"
                record.known = Known(DeviceState.LOST, why, None, record.known.read_ns)
            elif record.known.state is DeviceState.LOST:
                record.faults.gone(now_ns)

    def resolve(self, session: Session, wanted: Mapping[str, Claimed]) -> None:
        """Find the GPU of each device."""
        found: dict[str, Record | Problem] = {}
        for device, claimed in wanted.items():
            uuid = self._bound.get((device, claimed))
            if uuid is None:
                answer = session.find(claimed, self.environ)
                if isinstance(answer, str):
                    found[device] = Problem(DeviceState.NOT_FOUND, answer)
                    continue
                uuid = self._bound[device, claimed] = answer.uuid
            record = self.records.get(uuid)
            if record is None:
                record = self.records[uuid] = Record(uuid, *session.described(uuid))
            found[device] = record
            if not session.has(uuid) and record.known.state is not DeviceState.LOST:
                record.known = Known(DeviceState.NOT_FOUND, f"NVML does not have {uuid} any more")
        used = dict.fromkeys(each.uuid for each in found.values() if isinstance(each, Record))
        session.use(uuid for uuid in used if session.has(uuid) and uuid not in self.hanging)
        self.found = found

    def released(self, uuid: str) -> None:
        """Note that the call which hung has returned, and its thread is done."""
        log.warning("%s: the call that did not return has returned; it is read again", uuid)
        self.hanging = {each: why for each, why in self.hanging.items() if each != uuid}
        self.changed()

    @property
    def troubled(self) -> bool:
        """Whether there is something that another initialization may mend."""
        if self.hanging:
            return False  # to look for GPUs again would hang, too
        good = {DeviceState.OK, DeviceState.PENDING}
        return any(
            isinstance(each, Problem) or each.known.state not in good
            for each in self.found.values()
        )


class _Thread:
    """One thread that reads, until it is replaced."""

    def __init__(self, reader: Reader, like: Session | None = None) -> None:
        self.session = like
        """The GPUs that it reads; at first those of the thread that it replaces."""
        self.step: Step | None = None
        self.stuck = ""
        self.replaced = False
        self.wake = threading.Event()
        self.thread = threading.Thread(target=self._run, name="batcher-nvml", daemon=True)
        self._reader = reader
        self.hung: str | None = None
        """The GPU because of which it was abandoned."""
        self._said: tuple[object, ...] = ()

    def _run(self) -> None:
        try:
            self._work()
        except _Replaced:
            pass
        except Exception:
            log.exception("internal error: the thread that reads NVML has ended")
            problem = Problem(DeviceState.ERROR, "internal error: the log has the traceback")
            self._reader.problem = problem
        if self.hung is not None:
            self._reader.released(self.hung)
        self._tell()

    def _work(self) -> None:
        reader = self._reader
        try:
            with self._in("the import of nvidia-ml-py", limit_ns=OPEN_LIMIT_NS):
                nvml = reader.load()
        except LibraryMissingError as error:
            log.warning("nothing is known of GPUs: %s", error)
            reader.problem = Problem(DeviceState.NO_LIBRARY, str(error))
            return
        except _Replaced:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a library that cannot be imported
            why = describe(error)
            log.warning("nothing is known of GPUs: nvidia-ml-py cannot be imported: %s", why)
            reader.problem = Problem(DeviceState.NO_LIBRARY, f"it cannot be imported: {why}")
            return
        clock = reader.clock
        while not self.replaced:
            session = self._open(nvml)
            pause_ns = REOPEN_NS
            if session is not None:
                try:
                    self._serve(session)
                    pause_ns = 0
                except NotInitialized:
                    pause_ns = INTERVAL_NS
                finally:
                    self.session = None
                    with self._in("nvmlShutdown()"):
                        session.close()
            self._rest(clock() + pause_ns)

    def _open(self, nvml: Nvml) -> Session | None:
        reader = self._reader
        session: Session | None = None
        try:
            with self._in("nvmlInit()", limit_ns=OPEN_LIMIT_NS):
                session = Session(nvml, self.session)
        except _Replaced:
            if session is not None:
                session.close()
            raise
        except Exception as error:  # noqa: BLE001 - it is said, and tried again
            found = Problem(state_of(nvml, error), text_of(nvml, error))
            if found.state is DeviceState.NOT_FOUND:
                found = Problem(DeviceState.ERROR, found.reason)
            if found != reader.problem:
                log.warning("nothing is known of GPUs: %s (%s)", found.reason, found.state)
            reader.problem = found
            self._tell()
            return None
        if reader.problem is not None:
            log.info("NVML is there, with %d GPUs", len(session.gpus))
        reader.problem = None
        self.session = session
        return session

    def _serve(self, session: Session) -> None:
        """Read until NVML is to be initialized again."""
        reader, clock = self._reader, self._reader.clock
        wanted, hanging = None, None
        opened_ns = clock()
        reader.opened(session)
        while True:
            began_ns = clock()
            if reader.wanted is not wanted or reader.hanging is not hanging:
                wanted, hanging = reader.wanted, reader.hanging
                with self._in("a call of NVML that looks for GPUs", limit_ns=OPEN_LIMIT_NS):
                    reader.resolve(session, wanted)
            for uuid, target in session.targets.items():
                with self._in(f"the reading of {uuid}", uuid):
                    self._read(session, target, reader.records[uuid])
            self._tell()
            # Not before a second reading has decided: another initialization may not have a GPU that is lost.
            undecided = any(reader.records[uuid].faults.undecided for uuid in session.targets)
            if reader.troubled and not undecided and clock() - opened_ns >= REOPEN_NS:
                return
            self._wait(session, began_ns + INTERVAL_NS, wanted)

    def _read(self, session: Session, target: Target, record: Record) -> None:
        clock, faults, nvml = self._reader.clock, record.faults, session.nvml
        if target.uuid in session.fresh:
            session.fresh.discard(target.uuid)
            session.events.add(target)
            record.watched = target.uuid in session.events.watched
        try:
            reading = read(nvml, target)
            statistics = session.gpm.add_to(reading.statistics, target)
        except GpuLost as error:
            self._check()
            faults.lost(clock(), reset=error.reset)
            record.known = Known(DeviceState.LOST, f"NVML: {error}", None, record.known.read_ns)
            return
        self._check()
        now_ns = clock()
        faults.read(statistics.ecc_uncorrected, reading.recovery_action, now_ns)
        if reading.known:
            record.known = Known(DeviceState.OK, "", statistics, now_ns)
            return
        state, reason = DeviceState.ERROR, "NVML tells nothing of this GPU"
        if reading.problem is not None:
            state, reason = state_of(nvml, reading.problem), text_of(nvml, reading.problem)
        record.known = Known(state, reason, None, record.known.read_ns)

    def _wait(self, session: Session, until_ns: int, wanted: object) -> None:
        """Wait until a time, or until other GPUs are wanted; take note of the events that come meanwhile."""
        reader = self._reader
        waits = 0
        while (left_ns := until_ns - reader.clock()) > 0 and reader.wanted is wanted:
            self._check()
            events = session.events
            waits += 1
            if waits > MOST_WAITS or not events.watched:
                self.wake.wait(min(left_ns, WAIT_MS * MILLISECOND) / SECOND)
            if not events.watched:
                continue
            try:
                with self._in("a wait for events of GPUs"):
                    event = events.wait(min(WAIT_MS, max(1, left_ns // MILLISECOND)))
            except (NotInitialized, _Replaced):
                raise
            except Exception as error:  # noqa: BLE001 - readings go on without
                log.warning("XID events are not known any more: %s", text_of(session.nvml, error))
                events.close()
                for record in reader.records.values():
                    record.watched = False
                continue
            if event is not None:
                for uuid in event.uuids:
                    reader.records[uuid].event(event.xid, reader.clock())
                self._tell()

    def _rest(self, until_ns: int) -> None:
        """Wait until a time, or until it is to end."""
        while not self.replaced and (left_ns := until_ns - self._reader.clock()) > 0:
            self.wake.wait(min(left_ns, WAIT_MS * MILLISECOND) / SECOND)

    @contextmanager
    def _in(
        self, what: str, uuid: str | None = None, *, limit_ns: int = READ_LIMIT_NS
    ) -> Iterator[None]:
        """Be in a call that may hang. Raises `_Replaced` after it if another thread reads now."""
        self.step = Step(what, uuid, self._reader.clock(), limit_ns)
        try:
            yield
        finally:
            self.step = None
        self._check()

    def _check(self) -> None:
        """Raise `_Replaced` if another thread reads now, or none is to."""
        if self.replaced:
            raise _Replaced

    def _tell(self) -> None:
        """Say that there is something new, if there is."""
        reader = self._reader
        said = (
            reader.problem,
            tuple(
                (
                    device,
                    each
                    if isinstance(each, Problem)
                    else (each.uuid, each.known.state, tuple(each.faults.failures.items())),
                )
                for device, each in reader.found.items()
            ),
        )
        if said != self._said:
            self._said = said
            reader.changed()
