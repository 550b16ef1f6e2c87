"""The one mutable record that the scheduler keeps of each live request."""

from __future__ import annotations

from typing import Final, TypeAlias

from batcher.core.events import RequestArrived, Shapes

LaneKey: TypeAlias = tuple[str, Shapes]
"""What must be equal for two requests to share a batch."""

NEVER_NS: Final = 1 << 62
"""Later than any due time."""


class LiveRequest:
    """A request between its arrival and its `Settle`: waiting, or executing in `batch_id`.

    `order` is its place in a line: when it must be done at the latest (the earlier of due and
    expiry), or, after every real time, its turn of arrival. `rank` is its line in the lane, the most
    valuable one first, and `promotes_ns` when waiting will have earned it a better one.
    """

    __slots__ = (
        "arrived",
        "batch_id",
        "due_ns",
        "expires_ns",
        "id",
        "nbytes",
        "order",
        "probe",
        "promotes_ns",
        "rank",
        "rows",
    )

    def __init__(self, arrived: RequestArrived, due_ns: int | None, expires_ns: int | None) -> None:
        self.arrived = arrived
        self.id = arrived.id
        self.rows = arrived.rows
        self.nbytes = arrived.nbytes
        self.due_ns = due_ns
        self.expires_ns = expires_ns
        self.batch_id: int | None = None
        self.rank = 0
        self.promotes_ns = NEVER_NS
        self.probe = False
        if due_ns is not None and expires_ns is None:
            self.order = due_ns
        else:
            self.order_by_due()

    def order_by_due(self) -> None:
        """Have the request's own times say when its turn is, or its arrival if it has none."""
        due_ns, expires_ns = self.due_ns, self.expires_ns
        if due_ns is not None:
            self.order = due_ns if expires_ns is None or due_ns < expires_ns else expires_ns
        elif expires_ns is not None:
            self.order = expires_ns
        else:
            self.order = NEVER_NS + self.arrived.arrival_ns

    @property
    def lane_key(self) -> LaneKey:
        """The lane this request waits in."""
        return self.arrived.batch_key, self.arrived.shapes

    def __repr__(self) -> str:
        where = "waiting" if self.batch_id is None else f"in batch {self.batch_id}"
        return f"<request {self.id} of {self.arrived.model}, {self.rows} rows, {where}>"
