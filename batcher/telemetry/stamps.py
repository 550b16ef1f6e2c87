"""The times at which one request passed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(slots=True)
class Stamps:
    """Monotonic nanoseconds; 0 means that the request ended before.

    Every latency metric is a difference of two of these, computed once, when the request ends.
    Stages: admission (arrival to enqueued), queue (to dispatched), gather (to execute start), execute
    (to execute end), scatter (to settled), reply (to replied).
    """

    arrival_ns: int
    enqueued_ns: int = 0
    dispatched_ns: int = 0
    execute_start_ns: int = 0
    execute_end_ns: int = 0
    settled_ns: int = 0
    replied_ns: int = 0
    batch_rows: int = 0
    """Rows of the batch the request ran in."""

    def executed(self, start_ns: int, end_ns: int) -> None:
        """It was executed, in whole or in part, in a batch; 0 where a batch did not get so far.

        A request is in `execute` from when the first of its executions began until the last ended.
        """
        if not start_ns:
            return
        if not self.execute_start_ns or start_ns < self.execute_start_ns:
            self.execute_start_ns = start_ns
        self.execute_end_ns = max(self.execute_end_ns, end_ns)

    def unreported(self) -> None:
        """What an instance was doing with it is lost: from the dispatch on it counts as executed."""
        if not self.execute_start_ns:
            self.execute_start_ns = self.dispatched_ns

    def not_answered(self, settled_ns: int, step_ns: int) -> None:
        """Its outcome is known, and is no answer: the stage that it is in ends with that.

        `step_ns` is the time of the scheduler's step. A request that ends in the step in which it came was
        never in the queue.
        """
        self.settled_ns = settled_ns
        self.execute_end_ns = 0
        if self.dispatched_ns:
            self.unreported()
        elif self.enqueued_ns == step_ns:
            self.enqueued_ns = 0

    @property
    def reached(self) -> int:
        """How many of the first five stages a request was in: 1, admission, to 5, scatter."""
        if not self.enqueued_ns:
            return 1
        if not self.dispatched_ns:
            return 2
        if not self.execute_start_ns:
            return 3
        return 5 if self.execute_end_ns else 4

    def stages_ns(self) -> tuple[int, ...]:
        """The time in each stage, 0 where it was not reached; their sum is the request's duration.

        The last stage that a request reached before its outcome was known lasts until then.
        """
        moments = (
            self.arrival_ns,
            self.enqueued_ns,
            self.dispatched_ns,
            self.execute_start_ns,
            self.execute_end_ns,
        )[: self.reached]
        settled_ns = self.settled_ns
        spent = [end - begin for begin, end in pairwise((*moments, settled_ns))]
        spent += [0] * (5 - len(spent))
        return (*spent, (self.replied_ns or settled_ns) - settled_ns)
