"""Plays a recorded log to the scheduler again: the same events must give the same commands.

Each segment starts from its own snapshot, so that one that cannot be read, or that differs, does not
affect the others. Where a segment continues another, the scheduler's state must also be the recorded
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from batcher.core.events import Event, InstanceUp, ModelConfigured
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings
from batcher.core.state import State
from batcher.core.times import NEVER_NS
from batcher.errors import describe
from batcher.journal import CodecError, Segment, scheduler_fingerprint


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the scheduler did not do what was recorded."""

    segment: str
    step: int
    """From 0; the segment's end for a state."""
    now_ns: int
    at_ns: int
    """The same, counted from the beginning of the logs."""
    what: Literal["commands", "state"]
    expected: object
    got: object


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of a model's settings. `at_ns` counts from the beginning of the logs."""

    at_ns: int
    model: str
    before: ModelSettings
    after: ModelSettings


@dataclass(slots=True)
class Replayed:
    """The result of a replay."""

    segments: int = 0
    steps: int = 0
    requests: int = 0
    first: Difference | None = None
    differing: int = 0
    """Segments with a difference; each is played up to its first."""
    faults: list[str] = field(default_factory=list)
    """Segments that could not be played to their end, and why."""
    late_ns: list[int] = field(default_factory=list)
    """How late each wakeup was, of those without another event at the same moment."""
    changes: list[Changed] = field(default_factory=list)
    """Changes of settings that were in force."""
    settings: dict[str, ModelSettings] = field(default_factory=dict)
    """By model, the settings in force at the end."""

    def configured(self, at_ns: int, model: str, settings: ModelSettings) -> None:
        """Record that a model's settings are in force."""
        before = self.settings.get(model, settings)
        if before != settings:
            self.changes.append(Changed(at_ns, model, before, settings))
        self.settings[model] = settings


def replay(
    segments: Iterable[Segment],
    *,
    until_ns: int = NEVER_NS,
    report: Callable[[str, int], None] = lambda _what, _steps: None,
) -> Replayed:
    """Play the segments up to `until_ns` after the beginning of their logs.

    `report` is called with progress, in steps.
    """
    found = Replayed()
    in_force = _InForce(found)
    before: Segment | None = None
    scheduler = Scheduler()
    for segment in segments:
        if segment.since(segment.opening.now_ns) > until_ns:
            continue
        expects = before is not None and segment.follows(before)
        try:
            state = segment.state()
            if expects and scheduler.snapshot() != state:
                step = before.steps_count if before else 0
                _differs(
                    found,
                    before or segment,
                    step,
                    state.now_ns,
                    "state",
                    state,
                    scheduler.snapshot(),
                )
            scheduler = Scheduler.restore(state)
            in_force.begin(segment, state)
            whole = _play(scheduler, segment, until_ns, found, in_force)
        except CodecError as error:
            found.faults.append(f"{segment.name}: {error}")
            whole = False
        except Exception as error:  # noqa: BLE001 - a state of another version may break anything
            found.faults.append(f"{segment.name}: {_unplayable(segment)}: {describe(error)}")
            whole = False
        before = segment if whole else None
        found.segments += 1
        found.requests += segment.requests
        report("replay", segment.steps_count)
    return found


def _unplayable(segment: Segment) -> str:
    """Why a segment cannot be played though it can be read."""
    opening = segment.opening
    if opening.scheduler in {"", scheduler_fingerprint()}:
        return "this version cannot play it"
    return (
        f"it was recorded by another version ({opening.recorded_by}), whose state this one cannot go"
        " on from; replay it with the version that recorded it, or record again with this one"
    )


class _InForce:
    """Reports to `Replayed` which settings come into force.

    Settings of a model are not in force before its first instance is up, because only then it is known
    which of its axes are padded.
    """

    def __init__(self, found: Replayed) -> None:
        self._found = found
        self._log = ""
        self._served: set[str] = set()
        self._waiting: dict[str, ModelSettings] = {}

    def begin(self, segment: Segment, state: State) -> None:
        """Begin a segment with this state."""
        if segment.opening.log != self._log:
            self._log = segment.opening.log
            self._served = set()
        self._served.update([instance.up.model for instance in state.instances])
        at_ns = segment.since(segment.opening.now_ns)
        for model in state.models:
            self._configured(at_ns, model.model, model.settings)

    def take(self, at_ns: int, event: Event) -> None:
        """Handle one event."""
        if type(event) is ModelConfigured:
            self._configured(at_ns, event.model, event.settings)
        elif type(event) is InstanceUp and event.model not in self._served:
            self._served.add(event.model)
            if event.model in self._waiting:
                self._found.configured(at_ns, event.model, self._waiting.pop(event.model))

    def _configured(self, at_ns: int, model: str, settings: ModelSettings) -> None:
        if model in self._served:
            self._found.configured(at_ns, model, settings)
        else:
            self._waiting[model] = settings


def _play(
    scheduler: Scheduler, segment: Segment, until_ns: int, found: Replayed, in_force: _InForce
) -> bool:
    """Play one segment; returns whether it was played to its end without a difference."""
    handle, wakeup_ns, late_ns = scheduler.handle, scheduler.next_wakeup_ns, found.late_ns
    for place, step in enumerate(segment.steps()):
        now_ns, events = step.now_ns, step.events
        if segment.since(now_ns) > until_ns:
            return False
        if not events:
            asked_ns = wakeup_ns()
            if asked_ns is not None and asked_ns <= now_ns:
                late_ns.append(now_ns - asked_ns)
        for event in events:
            if type(event) is ModelConfigured or type(event) is InstanceUp:
                in_force.take(segment.since(now_ns), event)
        got = handle(events, now_ns)
        found.steps += 1
        if got != step.commands:
            _differs(found, segment, place, now_ns, "commands", step.commands, got)
            return False
    return True


def _differs(
    found: Replayed,
    segment: Segment,
    step: int,
    now_ns: int,
    what: Literal["commands", "state"],
    expected: object,
    got: object,
) -> None:
    found.differing += 1
    if found.first is None:
        at_ns = segment.since(now_ns)
        found.first = Difference(segment.name, step, now_ns, at_ns, what, expected, got)
