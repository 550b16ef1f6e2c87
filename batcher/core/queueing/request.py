"""The one mutable record that the scheduler keeps of each live request."""

from __future__ import annotations

from typing import TypeAlias, final

from batcher.core.events import RequestArrived, Shapes
from batcher.core.times import NEVER_NS

GroupKey: TypeAlias = tuple[str, Shapes]
"""What must be equal for two requests to share a batch."""


class Split:
    """How far a request is whose rows fit no single batch.

    `left` counts its rows that are not done. `queued` says whether some of them wait in the queue:
    those from the request's `start` on, `rows` of which may go into the next batch. `batches` are
    the ones that run some of its rows.
    """

    __slots__ = ("batches", "left", "queued")

    def __init__(self, left: int) -> None:
        self.left = left
        self.queued = False
        self.batches: set[int] = set()


@final
class LiveRequest:
    """A request between its arrival and its `Settle`: waiting, or executing in `batch_id`.

    `rows` and `start` are the rows that may go into one batch next: all of them, unless it is
    `split`. `suspect_parts` counts the parts of it that wait to be executed again, because the batch they
    were in failed; `requeues` how often it came back to the queue from such a batch, whose failure
    was another's fault. While any of its rows waits, `batch_id` is None.

    `expires_ns` is when it ends if it has not begun, `deadline_ns` when its caller does not wait for the
    answer any more. `finish_by_ns` is its place in a line: when it must be done at the latest (the earlier
    of due and the caller's leaving), or, after every real time, its turn of arrival. `rank` is its line in the lane, the most
    valuable one first, and `promote_at_ns` when waiting will have earned it a better one. `bucket` is
    the shape that it is padded to, its own where nothing is padded.
    """

    __slots__ = (
        "arrived",
        "batch_id",
        "bucket",
        "canary",
        "deadline_ns",
        "due_ns",
        "expires_ns",
        "finish_by_ns",
        "id",
        "nbytes",
        "promote_at_ns",
        "rank",
        "requeues",
        "rows",
        "split",
        "start",
        "suspect_parts",
    )

    def __init__(self, arrived: RequestArrived, due_ns: int | None, expires_ns: int | None) -> None:
        self.arrived = arrived
        self.id = arrived.id
        self.rows = arrived.rows
        self.nbytes = arrived.nbytes
        self.due_ns = due_ns
        self.expires_ns = expires_ns
        self.deadline_ns = arrived.deadline_ns
        self.batch_id: int | None = None
        self.bucket = arrived.shapes
        self.rank = 0
        self.promote_at_ns = NEVER_NS
        self.canary = False
        self.start = 0
        self.suspect_parts = 0
        self.requeues = 0
        self.split: Split | None = None
        if due_ns is not None and self.deadline_ns is None:
            self.finish_by_ns = due_ns
        else:
            self.set_finish_by()

    def set_finish_by(self) -> None:
        """Have the request's own times say when its turn is, or its arrival if it has none."""
        due_ns, deadline_ns = self.due_ns, self.deadline_ns
        if due_ns is not None:
            self.finish_by_ns = (
                due_ns if deadline_ns is None or due_ns < deadline_ns else deadline_ns
            )
        elif deadline_ns is not None:
            self.finish_by_ns = deadline_ns
        else:
            self.finish_by_ns = NEVER_NS + self.arrived.arrival_ns

    @property
    def begun(self) -> bool:
        """Whether some of its rows have run, so that it is not given up for the sake of others."""
        return self.start > 0 or self.requeues > 0

    @property
    def later_rows(self) -> int:
        """Rows that wait behind those which may go into one batch next."""
        return 0 if self.split is None else self.arrived.rows - self.start - self.rows

    @property
    def group_key(self) -> GroupKey:
        """The lane this request waits in."""
        return self.arrived.batch_key, self.bucket

    def __repr__(self) -> str:
        where = "waiting" if self.batch_id is None else f"in batch {self.batch_id}"
        return f"<request {self.id} of {self.arrived.model}, {self.rows} rows, {where}>"


def queued(request: LiveRequest) -> bool:
    """Whether some of a request's rows wait in the queue, and not only to be executed again."""
    if request.split is not None:
        return request.split.queued
    return request.batch_id is None and not request.suspect_parts
