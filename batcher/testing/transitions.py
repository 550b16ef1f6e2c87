"""Which transitions of docs/scheduler-states.md a scheduler makes, one handler at a time; for tests.

A step of the scheduler can move a request through several states: it arrives, waits, and runs. The
recorder looks at all states before and after each handler of a step, so that it sees every one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from unittest.mock import patch

from batcher.core import scheduler as steps
from batcher.core.commands import Command, Dispatch, Settle
from batcher.core.contents import Contents
from batcher.core.events import BatchProgress
from batcher.core.handlers import decision
from batcher.core.lifecycle import RequestState, request_state
from batcher.core.policies import make_policy
from batcher.testing.states import ENDS, BatchState, InstanceState, batch_state, instance_state

TABLES: Final = {
    "Requests": ("request", RequestState),
    "Batches": ("batch", BatchState),
    "Instances": ("instance", InstanceState),
}
"""The headings of the page under which there are tables, and what they are about."""

HANDLERS: Final = (
    (steps, "arrive", ""),
    (steps, "_take_in", ""),
    (steps, "expire", "expiry"),
    (steps, "end_at_limit", "limit"),
    (decision, "_promote", "reach"),
    (decision, "_give_up", "give up"),
    (decision, "release_steps", "release"),
    (decision, "dispatch", "dispatch"),
    (decision, "reorder", "policy failure"),
)
"""What may move a thing, and its name in the tables; the name of the event where that is empty."""

Key: TypeAlias = tuple[str, int | str, int]
"""A thing: its kind, its id or name, and its incarnation (0 where it has none)."""


@dataclass(frozen=True)
class Transition:
    """A thing of a `kind` goes from one state to another, and a command follows or none ("")."""

    kind: str
    before: str
    cause: str
    after: str
    command: str


def read_transitions(page: Path) -> list[Transition]:
    """Every transition that the page's tables list; a row with several states is as many of them.

    Raises `ValueError` where a table names a state that does not exist.
    """
    found: list[Transition] = []
    for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        if heading not in TABLES:
            continue
        kind, states = TABLES[heading]
        for line in text.splitlines():
            cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            if len(cells) != 5 or cells[0] == "from" or set(cells[0]) == {"-"}:
                continue
            befores, cause, after, command, _ = cells
            found += [
                Transition(kind, states(before), cause, states(after), command)
                for before in befores.split(", ")
            ]
    return found


class Recorder:
    """`seen`: every transition so far, with the thing that made it, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[Key, Transition]] = []
        self._contents = Contents(make_policy)

    def watched(self, handler: Callable[..., Any], cause: str) -> Callable[..., Any]:
        """The same handler, whose transitions are recorded."""

        def watch(*given: Any, **rest: Any) -> Any:
            if isinstance(given[0], Contents):
                self._contents = given[0]
            contents = self._contents
            before, unreported = _states(contents), _unreported(contents)
            told = len(contents.ledger.commands)
            result = handler(*given, **rest)
            commands = contents.ledger.commands[told:]
            after = _states(contents) | _ends(commands)
            for key in [*before, *(key for key in after if key not in before)]:
                old = before.get(key) or _new(key)
                name = cause or type(given[1]).__name__
                new = after.get(key) or _gone(key, given[1], unreported, contents)
                if old != new:
                    command = _command(key, commands)
                    self.seen.append((key, Transition(key[0], old, name, new, command)))
            return result

        return watch


@contextmanager
def recorded_transitions() -> Iterator[Recorder]:
    """Records the transitions of every scheduler inside the block; one scheduler steps at a time."""
    recorder = Recorder()
    with ExitStack() as stack:
        for module, name, cause in HANDLERS:
            watched = recorder.watched(getattr(module, name), cause)
            stack.enter_context(patch.object(module, name, watched))
        yield recorder


def _states(contents: Contents) -> dict[Key, str]:
    fleet = contents.fleet
    found: dict[Key, str] = {
        ("request", each.id, 0): request_state(each, fleet) for each in contents.live.values()
    }
    for batch in fleet.batches.values():
        found["batch", batch.batch_id, 0] = batch_state(batch, fleet)
    for name, instance in fleet.instances.items():
        found["instance", name, instance.up.incarnation] = instance_state(instance)
    return found


def _unreported(contents: Contents) -> dict[int | str, set[int]]:
    return {i: set(batch.unreported) for i, batch in contents.fleet.batches.items()}


def _ends(commands: list[Command]) -> dict[Key, str]:
    """The state in which each request ended."""
    return {
        ("request", request_id, 0): ENDS[command.outcome]
        for command in commands
        if isinstance(command, Settle)
        for request_id in command.ids
    }


def _new(key: Key) -> str:
    return InstanceState.DOWN if key[0] == "instance" else RequestState.NEW


def _gone(
    key: Key, event: object, unreported: dict[int | str, set[int]], contents: Contents
) -> str:
    """The state of what is not held any more: of a batch, how it ended."""
    if key[0] == "instance":
        return InstanceState.DOWN
    if key[0] == "request":
        return "vanished"
    if not isinstance(event, BatchProgress):
        return BatchState.LOST
    if event.error is None:
        return BatchState.DONE
    runs_again = any(request_id in contents.live for request_id in unreported[key[1]])
    return BatchState.BISECTED if runs_again else BatchState.FAILED


def _command(key: Key, commands: list[Command]) -> str:
    kind, name, _ = key
    for command in commands:
        if isinstance(command, Settle):
            if kind == "request" and name in command.ids:
                return f"Settle {command.outcome}"
        elif isinstance(command, Dispatch):
            ids = {part.id for part in command.parts}
            if (
                (kind == "request" and name in ids)
                or (kind == "batch" and name == command.batch_id)
                or (kind == "instance" and name == command.instance)
            ):
                return "Dispatch"
    return ""
