"""The open sequences of one generation of a model: how many, which are idle, which slots are free."""

from __future__ import annotations

from typing import Protocol

from batcher.runtime.sequences.interface import SequenceInterface
from batcher.runtime.sequences.sequence import Sequence
from batcher.telemetry.sequences import SequenceCounts


class SequenceModel(Protocol):
    """What is needed of a model's generation that has sequences."""

    @property
    def key(self) -> str:
        """Its name in events and commands."""
        ...

    @property
    def name(self) -> str:
        """Its name in requests."""
        ...

    @property
    def version(self) -> str:
        """Its version in requests."""
        ...

    @property
    def sequences(self) -> SequenceInterface | None:
        """Its state and controls; None if it has no section `sequence`, or before the first load."""
        ...

    @property
    def sequence_counts(self) -> SequenceCounts:
        """Where its sequences are counted."""
        ...


class KeptSequences:
    """`open`: those that further steps find; `idle`: those without a live step, the longest idle first."""

    __slots__ = ("_free", "_next_slot", "idle", "model", "open")

    def __init__(self, model: SequenceModel) -> None:
        self.model = model
        self.open: dict[Sequence, None] = {}
        self.idle: dict[Sequence, None] = {}
        self._free: list[int] = []
        self._next_slot = 0

    def add(self, sequence: Sequence) -> None:
        """A sequence is open from now on."""
        self.open[sequence] = None
        counts, interface = self.model.sequence_counts, sequence.interface
        counts.open += 1
        counts.started += 1
        counts.state_bytes += interface.nbytes
        if interface.config.strategy == "slot":
            sequence.slot = self._take_slot()

    def remove(self, sequence: Sequence) -> None:
        """No further step finds the sequence."""
        del self.open[sequence]
        self.idle.pop(sequence, None)
        sequence.open = False
        counts = self.model.sequence_counts
        counts.open -= 1
        counts.state_bytes -= sequence.interface.nbytes
        self.free_slot(sequence)

    @property
    def slots(self) -> int:
        """Slots that are in use: of open sequences, and of ended ones with a batch that still runs."""
        return self._next_slot - len(self._free)

    def free_slot(self, sequence: Sequence) -> None:
        """Let others have the slot of an ended sequence, once no batch uses it."""
        if (
            sequence.slot is not None
            and not sequence.open
            and not sequence.running
            and not sequence.live
        ):
            self._free.append(sequence.slot)
            sequence.slot = None

    def _take_slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._next_slot += 1
        return self._next_slot - 1
