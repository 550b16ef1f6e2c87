"""What is counted of a model's sequences."""

from __future__ import annotations

from enum import StrEnum


class SequenceEnd(StrEnum):
    """Why a sequence is not open any more."""

    ENDED = "ended"
    """Its last step was answered."""
    REPLACED = "replaced"
    """It was started again before its end."""
    EXPIRED = "expired"
    """It was idle for too long."""
    LOST = "lost"
    """It could not go on: its first step was not answered, or its state is gone."""


class SequenceCounts:
    """Open sequences and bytes of their state now; those started, and those that ended, by how."""

    __slots__ = ("ended", "open", "started", "state_bytes")

    def __init__(self) -> None:
        self.open = 0
        self.started = 0
        self.state_bytes = 0
        self.ended = dict.fromkeys(SequenceEnd, 0)
