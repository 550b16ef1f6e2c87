"""The one mutable record that the scheduler keeps of each live request."""

from __future__ import annotations

from typing import TypeAlias, final

from batcher.core.events import RequestArrived, Shapes
from batcher.core.times import NEVER_NS

GroupKey: TypeAlias = tuple[str, Shapes]
"""What must be equal for two requests to share a batch."""


class Split:
    """The progress of a request that has more rows than a batch holds.

    `left` counts its rows that are not done. `queued` says whether some of them wait in the queue:
    those from the request's `start` on, of which `rows` may go into the next batch. `batches` are
    the ids of the batches that run some of its rows.
    """

    __slots__ = ("batches", "left", "queued")

    def __init__(self, left: int) -> None:
        self.left = left
        self.queued = False
        self.batches: set[int] = set()


@final
class LiveRequest:
    """A request between its arrival and its `Settle`.

    `rows` and `start` are the rows that may go into one batch next: all of them, unless it is
    `split`. `batch_id` is a batch that runs it, and None while any of its rows waits. `suspect_parts`
    counts its parts in suspect groups, `requeues` how often it came back to the queue from a batch.
    `lost`: an instance went down with a batch of it, and it runs once more.

    `due_ns` is when it should be done. `expires_ns` is when it ends if it has not begun. `limit_ns` is the
    last moment at which an answer is of use: the deadline, or what the model's settings say. `finish_by_ns`
    is its place in its priority class: the earlier of due time and limit or, after every real time, its
    turn of arrival. For a late request it is its turn, too (`late_turn_ns`). `rank` says which class that
    is (`ranks.py`), `promote_at_ns` when it gains a better one. `bucket` is the shape that it is padded to: its own where nothing is padded.
    `held`: it is a step of a sequence and waits for the step before it to end, outside of the batch groups.
    """

    __slots__ = (
        "arrived",
        "batch_id",
        "bucket",
        "due_ns",
        "expires_ns",
        "finish_by_ns",
        "held",
        "id",
        "limit_ns",
        "lost",
        "nbytes",
        "promote_at_ns",
        "rank",
        "requeues",
        "rows",
        "split",
        "start",
        "suspect_parts",
    )

    def __init__(
        self,
        arrived: RequestArrived,
        due_ns: int | None,
        expires_ns: int | None,
        limit_ns: int = NEVER_NS,
    ) -> None:
        self.arrived = arrived
        self.id = arrived.id
        self.rows = arrived.rows
        self.nbytes = arrived.nbytes
        self.due_ns = due_ns
        self.expires_ns = expires_ns
        self.limit_ns = limit_ns
        self.batch_id: int | None = None
        self.bucket = arrived.shapes
        self.held = False
        self.rank = 0
        self.promote_at_ns = NEVER_NS
        self.start = 0
        self.suspect_parts = 0
        self.requeues = 0
        self.lost = False
        self.split: Split | None = None
        if due_ns is not None and due_ns <= limit_ns:
            self.finish_by_ns = due_ns
        else:
            self.set_finish_by()

    def set_finish_by(self) -> None:
        """Set `finish_by_ns` from the request's due time and limit, or from its arrival without these."""
        due_ns, limit_ns = self.due_ns, self.limit_ns
        if due_ns is not None and due_ns < limit_ns:
            self.finish_by_ns = due_ns
        elif limit_ns < NEVER_NS:
            self.finish_by_ns = limit_ns
        else:
            self.finish_by_ns = NEVER_NS + self.arrived.arrival_ns

    @property
    def deadline_ns(self) -> int | None:
        """When its caller does not wait for the answer any more."""
        return self.arrived.deadline_ns

    @property
    def begun(self) -> bool:
        """Whether some of its rows have run: then it does not make room for others."""
        return self.start > 0 or self.requeues > 0

    @property
    def later_rows(self) -> int:
        """Rows that wait behind those which may go into the next batch."""
        return 0 if self.split is None else self.arrived.rows - self.start - self.rows

    @property
    def group_key(self) -> GroupKey:
        """The key of the batch group that it waits in."""
        return self.arrived.batch_key, self.bucket

    def __repr__(self) -> str:
        where = "waiting" if self.batch_id is None else f"in batch {self.batch_id}"
        return f"<request {self.id} of {self.arrived.model}, {self.rows} rows, {where}>"


def queued(request: LiveRequest) -> bool:
    """Whether some of a request's rows wait in the queue, and not only in suspect groups."""
    if request.split is not None:
        return request.split.queued
    return request.batch_id is None and not request.suspect_parts and not request.held
