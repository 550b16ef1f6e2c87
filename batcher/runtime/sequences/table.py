"""All open sequences: finds that of a request, bounds how many are open, ends those that are idle."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from typing import Final, TypeAlias

from batcher import triton
from batcher.clock import SECOND, Clock
from batcher.config import format_duration, format_size
from batcher.errors import InvalidRequest, Overloaded, SequenceError, shown
from batcher.runtime.request import InferenceRequest
from batcher.runtime.sequences.interface import SequenceInterface
from batcher.runtime.sequences.kept import KeptSequences, SequenceModel
from batcher.runtime.sequences.sequence import Sequence, SequenceId, Step
from batcher.telemetry.sequences import SequenceCounts, SequenceEnd

log = logging.getLogger(__name__)

REMEMBERED_ENDS: Final = 1024
"""The most ended sequences of which an error can still say how they ended; then the oldest are forgotten."""

RETRY_FULL_NS: Final = SECOND
"""The retry hint (nanoseconds) in a refusal because too many sequences are open."""

_Key: TypeAlias = tuple[str, str, SequenceId]
"""A model's name, a tenant, and the id that the client chose."""

START_AGAIN: Final = "start it again, with sequence_start"
NOT_OPEN: Final = "is not open: its first step must have sequence_start"


class SequenceTable:
    """Call every method on the event loop's thread."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = clock
        self._loop = loop
        self._numbers = itertools.count(1)
        self._found: dict[_Key, dict[str, Sequence]] = {}
        """Key -> version -> the open sequence there, the one that was started last behind the others."""
        self._kept: dict[str, KeptSequences] = {}
        """By the generation's name in events: those with sequences that are open or still run."""
        self._ends: OrderedDict[tuple[_Key, str], str] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._closing: dict[str, asyncio.Event] = {}

    # Requests

    def serving(self, request: InferenceRequest) -> SequenceModel | None:
        """The generation that has the request's sequence, for a step that does not start one."""
        given = request.sequence
        if given is None or given.start or given.id is None:
            return None
        sequence = self._find(request)
        return None if sequence is None else self._kept[sequence.model_key].model

    def admit(self, request: InferenceRequest, rows: int, model: SequenceModel) -> Step | None:
        """The step that a valid request is; None for a plain request to a model without sequences.

        Raises `InvalidRequest` or its subclass `SequenceError` for a step that cannot be, `Overloaded`
        for one too many. From here on, `Step.settle` must be called once.
        """
        interface, given = model.sequences, request.sequence
        if interface is None:
            if given is None:
                return None
            raise InvalidRequest(
                f"{model.name}: the request has a sequence_id, sequence_start or sequence_end, and the model"
                " has no section `sequence`; configure one, or leave these parameters out"
            )
        if given is None or given.id is None:
            raise SequenceError(
                f"{model.name}: the request names no sequence: this model needs the parameter sequence_id,"
                " a number that is not 0 or a text that is not empty",
                triton=triton.no_sequence_id(model.name),
            )
        if rows != 1:
            raise InvalidRequest(
                f"{model.name}: the request has {rows} rows; a step of a sequence has one row",
                triton=triton.sequence_rows(model.name),
            )
        interface.check_id(given.id)
        sequence = self._find(request)
        if given.start:
            sequence = self._start(request, given.id, model, interface)
        elif sequence is None or sequence.ending:
            raise self._not_open(request, given.id, model, sequence)
        most = sequence.interface.config.max_waiting_steps
        if sequence.live > most:
            raise Overloaded(
                f"{model.name}: {most} steps of sequence {_named(given.id)} wait already"
                " (sequence.max_waiting_steps); wait for their answers",
                retry_after_ns=RETRY_FULL_NS,
            )
        sequence.live += 1
        sequence.ending = given.end
        self._kept[sequence.model_key].idle.pop(sequence, None)
        return Step(sequence, start=given.start, end=given.end)

    def _find(self, request: InferenceRequest) -> Sequence | None:
        """The open sequence that a request names, unless it has been idle for too long."""
        given = request.sequence
        assert given is not None  # noqa: S101 - the callers have checked
        assert given.id is not None  # noqa: S101 - as above
        versions = self._found.get((request.model, request.tenant, given.id))
        if not versions:
            return None
        if request.version:
            sequence = versions.get(request.version)
        else:
            sequence = next(reversed(versions.values()))
        if (
            sequence is not None
            and not sequence.live
            and self._expires_ns(sequence) <= self._clock()
        ):
            self._expire(sequence)
            return None
        return sequence

    def _start(
        self,
        request: InferenceRequest,
        sequence_id: SequenceId,
        model: SequenceModel,
        interface: SequenceInterface,
    ) -> Sequence:
        """Open a sequence, in the place of one of that id which has not ended."""
        key = request.model, request.tenant, sequence_id
        before = [
            each
            for version, each in self._found.get(key, {}).items()
            if request.version in {"", version}
        ]
        self._check_room(model, interface, before)
        number = next(self._numbers)
        for each in before:
            if each.model_key == model.key:
                # Its steps go first, as they were sent first.
                number = each.number
            self._close(each, SequenceEnd.REPLACED, "was started again")
        kept = self._kept.get(model.key)
        if kept is None:
            kept = self._kept[model.key] = KeptSequences(model)
        sequence = Sequence(sequence_id, request.tenant, number, model.key, interface, self)
        kept.add(sequence)
        self._found.setdefault(key, {})[model.version] = sequence
        self._ends.pop((key, model.version), None)
        return sequence

    def _check_room(
        self, model: SequenceModel, interface: SequenceInterface, before: list[Sequence]
    ) -> None:
        """Raise `Overloaded` if no further sequence may be open, even without those `before` it."""
        config, counts = interface.config, model.sequence_counts
        kept = self._kept.get(model.key)
        same = [each for each in before if self._counts_of(each) is counts]
        full = counts.open - len(same) >= config.max_sequences
        if config.strategy == "slot" and kept is not None:
            freed = sum(
                each.model_key == model.key and not each.live and not each.running
                for each in before
            )
            full = full or kept.slots - freed >= config.max_sequences
        if full:
            raise Overloaded(
                f"{model.name}: {config.max_sequences} sequences are open already"
                " (sequence.max_sequences); end some, or wait until idle ones expire after"
                f" {format_duration(config.idle_timeout)} (sequence.idle_timeout)",
                retry_after_ns=RETRY_FULL_NS,
            )
        freed_bytes = sum(each.interface.nbytes for each in same)
        if counts.state_bytes - freed_bytes + interface.nbytes > config.max_state:
            raise Overloaded(
                f"{model.name}: the state of the open sequences has {format_size(counts.state_bytes)}, and"
                f" one more has {format_size(interface.nbytes)}; allowed: {format_size(config.max_state)}"
                " (sequence.max_state); end some, or wait until idle ones expire",
                retry_after_ns=RETRY_FULL_NS,
            )

    def _counts_of(self, sequence: Sequence) -> SequenceCounts:
        return self._kept[sequence.model_key].model.sequence_counts

    def _not_open(
        self,
        request: InferenceRequest,
        sequence_id: SequenceId,
        model: SequenceModel,
        sequence: Sequence | None,
    ) -> SequenceError:
        if sequence is not None:
            said: str | None = "has ended: its last step (sequence_end) was sent before"
        else:
            key = request.model, request.tenant, sequence_id
            said = self._ends.get((key, request.version or model.version))
        why = f"{said}; {START_AGAIN}" if said else NOT_OPEN
        return SequenceError(
            f"{model.name}: sequence {_named(sequence_id)} {why}",
            triton=triton.sequence_not_started(model.name, sequence_id),
        )

    # What steps tell

    def ended(self, sequence: Sequence) -> None:
        """The last step was answered."""
        self._close(
            sequence, SequenceEnd.ENDED, "has ended: its last step (sequence_end) was answered"
        )

    def lost(self, sequence: Sequence, why: str) -> None:
        """The sequence cannot go on; steps that it still has fail."""
        sequence.lost = sequence.lost or why
        self._close(sequence, SequenceEnd.LOST, f"was lost: {why}")

    def rested(self, sequence: Sequence) -> None:
        """No step of the sequence is live: from now on it is idle."""
        kept = self._kept.get(sequence.model_key)
        if kept is None:
            return
        if not sequence.open:
            kept.free_slot(sequence)
            self._forget_unused(kept)
            return
        sequence.last_used_ns = self._clock()
        kept.idle[sequence] = None
        self._arm(self._expires_ns(sequence))

    def ran(self, sequence: Sequence) -> None:
        """A batch with a step of the sequence has ended."""
        kept = self._kept.get(sequence.model_key)
        if kept is not None:
            kept.free_slot(sequence)
            self._forget_unused(kept)

    # Models

    async def closed(self, key: str) -> None:
        """Wait until no sequence of a generation is open."""
        while (kept := self._kept.get(key)) is not None and kept.open:
            event = self._closing.setdefault(key, asyncio.Event())
            await event.wait()

    def drop(self, key: str, why: str) -> None:
        """End all sequences of a generation that closes."""
        kept = self._kept.get(key)
        for sequence in list(kept.open if kept is not None else ()):
            self.lost(sequence, why)

    # The end of a sequence

    def _close(self, sequence: Sequence, end: SequenceEnd, said: str) -> None:
        """No further step finds the sequence; an error for one says `said`."""
        if not sequence.open:
            return
        kept = self._kept[sequence.model_key]
        model = kept.model
        key = model.name, sequence.tenant, sequence.id
        kept.remove(sequence)
        model.sequence_counts.ended[end] += 1
        versions = self._found[key]
        del versions[model.version]
        if not versions:
            del self._found[key]
        self._ends[key, model.version] = said
        if len(self._ends) > REMEMBERED_ENDS:
            self._ends.popitem(last=False)
        if not kept.open and (closing := self._closing.pop(model.key, None)) is not None:
            closing.set()
        self._forget_unused(kept)

    def _forget_unused(self, kept: KeptSequences) -> None:
        if not kept.open and not kept.slots:
            self._kept.pop(kept.model.key, None)

    # Idle sequences

    @staticmethod
    def _expires_ns(sequence: Sequence) -> int:
        return sequence.last_used_ns + sequence.interface.config.idle_timeout

    def _expire(self, sequence: Sequence) -> None:
        after = format_duration(sequence.interface.config.idle_timeout)
        said = f"has expired: it was idle for more than {after} (sequence.idle_timeout)"
        self._close(sequence, SequenceEnd.EXPIRED, said)

    def _arm(self, at_ns: int) -> None:
        """Look for idle sequences at that time, or before it. There is one timer."""
        if self._timer is not None:
            if self._timer_ns <= at_ns:
                return
            self._timer.cancel()
        self._timer_ns = at_ns
        delay_ns = max(0, at_ns - self._clock())
        self._timer = self._loop.call_later(delay_ns / SECOND, self._expire_idle)

    def _expire_idle(self) -> None:
        self._timer = None
        now_ns, next_ns = self._clock(), None
        for kept in list(self._kept.values()):
            while kept.idle and self._expires_ns(first := next(iter(kept.idle))) <= now_ns:
                self._expire(first)
            if kept.idle:
                at_ns = self._expires_ns(next(iter(kept.idle)))
                next_ns = at_ns if next_ns is None else min(next_ns, at_ns)
        if next_ns is not None:
            self._arm(next_ns)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _named(sequence_id: SequenceId) -> str:
    return shown(sequence_id) if isinstance(sequence_id, str) else str(sequence_id)
