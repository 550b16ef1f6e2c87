"""One open sequence, and one step of it from admission to its reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from batcher.core.record import copied
from batcher.executor import SequenceRow
from batcher.runtime.request import InferenceRequest
from batcher.runtime.sequences.interface import SequenceInterface
from batcher.tensors import Array, Tensor

SequenceId: TypeAlias = int | str
Home: TypeAlias = tuple[str, int]
"""An instance and its incarnation."""


class KeepsSequences(Protocol):
    """What a sequence and its steps need of the table."""

    def ended(self, sequence: Sequence) -> None:
        """The last step was answered."""
        ...

    def lost(self, sequence: Sequence, why: str) -> None:
        """The sequence cannot go on."""
        ...

    def rested(self, sequence: Sequence) -> None:
        """No step of the sequence is live now."""
        ...

    def ran(self, sequence: Sequence) -> None:
        """A batch with a step of the sequence has ended."""
        ...


class Sequence:
    """A sequence from its first step on. `state` is that of its last answered step.

    `number` is what the scheduler knows it by. `live` counts its steps that have not ended, `running` those
    in batches. `lost` says why it cannot go on; empty if it can. A sequence that has been started again is
    `replaced`: the steps that were sent before go on with its state.
    """

    __slots__ = (
        "ending",
        "home",
        "id",
        "interface",
        "keeper",
        "last_used_ns",
        "live",
        "lost",
        "model_key",
        "number",
        "open",
        "running",
        "slot",
        "state",
        "table",
        "tenant",
    )

    def __init__(
        self,
        sequence_id: SequenceId,
        tenant: str,
        number: int,
        model_key: str,
        interface: SequenceInterface,
        table: KeepsSequences,
    ) -> None:
        self.id = sequence_id
        self.tenant = tenant
        self.number = number
        self.model_key = model_key
        """The generation of the model that it stays on."""
        self.interface = interface
        self.table = table
        self.state: Mapping[str, Array] = interface.initial()
        self.slot: int | None = None
        """The executor's slot for its state, with the strategy `slot`."""
        self.home: Home | None = None
        """Where that slot is, from its first batch on."""
        self.live = 0
        self.running = 0
        self.open = True
        """Whether further steps find it."""
        self.ending = False
        """Whether its last step was sent."""
        self.lost = ""
        self.keeper: Step | None = None
        """The answered step whose state this is, while no later one has begun."""
        self.last_used_ns = 0


class Step:
    """One request of a sequence.

    Calls, in this order: `begin` and `ran` for each batch that it is in, `take` when a batch has executed
    it, `settle` once, `replied` once.
    """

    __slots__ = ("_after", "_before", "_executed", "begun", "end", "kept", "sequence", "start")

    def __init__(self, sequence: Sequence, *, start: bool, end: bool) -> None:
        self.sequence = sequence
        self.start = start
        self.end = end
        self.begun = False
        """Whether it is in a batch that runs."""
        self._executed = False
        """Whether it was ever given to an instance."""
        self.kept = False
        """Whether its state is, or was, the sequence's."""
        self._after: Mapping[str, Array] | None = None
        self._before: Mapping[str, Array] = {}

    def begin(self, home: Home) -> str:
        """It goes into a batch of that instance. Returns why it cannot, else the empty text."""
        sequence = self.sequence
        if sequence.slot is not None:
            if sequence.home is None:
                sequence.home = home
            elif sequence.home != home and not sequence.lost:
                sequence.table.lost(sequence, "the instance that kept its state was replaced")
        if not sequence.lost:
            self.begun = self._executed = True
            sequence.running += 1
            sequence.keeper = None
        return sequence.lost

    def asked(self, request: InferenceRequest) -> InferenceRequest:
        """The request with the outputs that it asks for, none of which is state unless it is named."""
        if request.outputs is not None:
            return request
        outputs = self.sequence.interface.shown_outputs
        return copied(InferenceRequest, request, outputs=outputs)

    def filled(self, request: InferenceRequest) -> InferenceRequest:
        """The request with the inputs that its client does not send, and the outputs that are kept."""
        sequence = self.sequence
        interface = sequence.interface
        own = interface.inputs(sequence.state, sequence.id, start=self.start, end=self.end)
        asked = request.outputs or ()
        kept = tuple(each.output for each in interface.states if each.output not in asked)
        return copied(
            InferenceRequest,
            request,
            inputs={**request.inputs, **own},
            outputs=(*asked, *kept),
        )

    @property
    def row(self) -> SequenceRow:
        """What an executor is told of its row."""
        sequence = self.sequence
        slot = -1 if sequence.slot is None else sequence.slot
        return SequenceRow(sequence.id, slot, start=self.start, end=self.end)

    def take(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep its state outputs until it is settled. Raises `ExecutionError` for a wrong shape."""
        self._after = self.sequence.interface.taken(outputs)

    def ran(self) -> None:
        """The batch that it is in has ended, however that was. Nothing where it is in none."""
        if self.begun:
            self.begun = False
            self.sequence.running -= 1
            self.sequence.table.ran(self.sequence)

    def settle(self, why: str) -> None:
        """It has ended: answered where `why` is empty, else for that reason, with the state as it was."""
        sequence = self.sequence
        sequence.live -= 1
        after, self._after = self._after, None
        if not why:
            self._before, sequence.keeper, self.kept = sequence.state, self, True
            if after is not None:
                sequence.state = after
        else:
            self._did_not_count(why)
        if not sequence.live:
            sequence.table.rested(sequence)

    def replied(self, *, answered: bool) -> None:
        """Its answer was handed to the transport, or could not be: then it has not counted.

        Unless the next step, which was waiting, has begun since: that has this step's state already.
        """
        if not self.kept:
            return
        self.kept = False
        sequence = self.sequence
        before, self._before = self._before, {}
        if sequence.keeper is self:
            sequence.keeper = None
            if not answered:
                sequence.state = before
                self._did_not_count("its answer could not be sent")
                return
        if self.end:
            sequence.table.ended(sequence)

    def _did_not_count(self, why: str) -> None:
        sequence = self.sequence
        if self.end:
            sequence.ending = False
        if self.start:
            sequence.table.lost(sequence, f"its first step was not answered ({why})")
        elif self._executed and sequence.interface.config.strategy == "slot":
            # The executor may have moved its state on.
            sequence.table.lost(sequence, f"a step that was executed was not answered ({why})")
