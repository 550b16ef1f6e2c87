"""What changed last: states that are compared once a second, and settings as they are applied."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_CHANGES: Final = 20
"""Changes that are kept: a screen of them."""

MAX_ALIKE: Final = 3
"""Models that make the same change in the same second, above which they are one entry."""

MAX_CHANGE_CHARACTERS: Final = 300
"""Characters of a change's text; a longer one is cut."""


class Severity(StrEnum):
    """How bad something is."""

    OK = "ok"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that changed, and when (Unix time)."""

    timestamp_seconds: float
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class ModelStates:
    """A model's state and the reason for it, the states of its instances, and counts of events.

    `counts` are counters by what their increase says, such as "instance lost (hung)".
    """

    state: str
    reason: str = ""
    instances: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Number -> state, and why."""
    generation: int = 1
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class States:
    """The states of the server and its models at one moment; `models` by their names for people."""

    server: str
    """Empty if it is ready, else why it is not."""
    models: Mapping[str, ModelStates]


class Changes:
    """The last `MAX_CHANGES` changes. `epoch` gives Unix time in seconds."""

    def __init__(self, epoch: Callable[[], float] = time.time) -> None:
        self._epoch = epoch
        self._entries: deque[Change] = deque(maxlen=MAX_CHANGES)
        self._before: States | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def newest_first(self) -> Sequence[Change]:
        """What is kept."""
        return tuple(reversed(self._entries))

    def note(self, severity: Severity, text: str) -> None:
        """Keep a change."""
        if len(text) > MAX_CHANGE_CHARACTERS:
            text = f"{text[: MAX_CHANGE_CHARACTERS - 3]}..."
        self._entries.append(Change(self._epoch(), severity, text))

    def compare(self, now: States) -> None:
        """Keep what is different from the states of the call before."""
        before, self._before = self._before, now
        if before is None:
            return
        if now.server != before.server:
            severity = Severity.WARNING if now.server else Severity.OK
            self.note(severity, f"server: {now.server or 'ready'}")
        alike: dict[tuple[Severity, str], list[str]] = {}
        for name in (*before.models, *(name for name in now.models if name not in before.models)):
            for severity, text in _changed(before.models.get(name), now.models.get(name)):
                alike.setdefault((severity, text), []).append(name)
        for (severity, text), names in alike.items():
            if len(names) > MAX_ALIKE:
                self.note(severity, f"{len(names)} models: {text}")
                continue
            for name in names:
                self.note(severity, f"{name}: {text}")


_BAD: Final = {"failed": Severity.CRITICAL, "unready": Severity.CRITICAL}
_FINE: Final = {"ready", "up"}


def _changed(before: ModelStates | None, now: ModelStates | None) -> Sequence[tuple[Severity, str]]:
    """What is different, each as a text that names no model."""
    if now is None:
        return [(Severity.NOTICE, "served no more")]
    if before is None:
        return [(Severity.NOTICE, f"new, {_with(now.state, now.reason)}")]
    found: list[tuple[Severity, str]] = [
        (Severity.WARNING, f"{text}{f', {n} times' if n > 1 else ''}")
        for text, total in now.counts.items()
        if (n := total - before.counts.get(text, 0)) > 0
    ]
    if now.state != before.state:
        severity = Severity.OK if now.state in _FINE else _BAD.get(now.state, Severity.NOTICE)
        found.append((severity, _with(now.state, now.reason)))
    elif now.reason != before.reason and now.reason:
        severity = Severity.NOTICE if now.state == "loading" else Severity.WARNING
        found.append((severity, now.reason))
    if now.generation > before.generation and now.state == before.state == "ready":
        found.append((Severity.OK, f"generation {now.generation} serves"))
    for number, (state, why) in now.instances.items():
        was = before.instances.get(number)
        if was is None or was[0] == state or (state == "up" and now.state != before.state):
            continue
        severity = Severity.OK if state in _FINE else _BAD.get(state, Severity.WARNING)
        found.append((severity, f"instance {number} is {_with(state, why)}"))
    return found


def _with(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason and state not in _FINE else state
