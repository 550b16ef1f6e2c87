"""The one mutable record that the scheduler keeps of each live request."""

from __future__ import annotations

from typing import TypeAlias

from batcher.core.events import RequestArrived, Shapes

LaneKey: TypeAlias = tuple[str, Shapes]
"""What must be equal for two requests to share a batch."""


class LiveRequest:
    """A request between its arrival and its `Settle`: waiting, or executing in `batch_id`."""

    __slots__ = ("arrived", "batch_id", "due_ns", "expires_ns", "id", "nbytes", "rows")

    def __init__(self, arrived: RequestArrived, due_ns: int | None, expires_ns: int | None) -> None:
        self.arrived = arrived
        self.id = arrived.id
        self.rows = arrived.rows
        self.nbytes = arrived.nbytes
        self.due_ns = due_ns
        self.expires_ns = expires_ns
        self.batch_id: int | None = None

    @property
    def lane_key(self) -> LaneKey:
        """The lane this request waits in."""
        return self.arrived.batch_key, self.arrived.shapes

    def __repr__(self) -> str:
        where = "waiting" if self.batch_id is None else f"in batch {self.batch_id}"
        return f"<request {self.id} of {self.arrived.model}, {self.rows} rows, {where}>"
