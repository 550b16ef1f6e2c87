"""The times at which one request passed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass


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

    def stages_ns(self) -> tuple[int, ...]:
        """The time in each stage, 0 where it was not reached; their sum is the request's duration.

        The last stage that a request reached before its outcome was known lasts until then.
        """
        settled_ns = self.settled_ns
        spent = [0, 0, 0, 0, 0, (self.replied_ns or settled_ns) - settled_ns]
        before_ns = self.arrival_ns
        place = 0
        for moment_ns in (
            self.enqueued_ns,
            self.dispatched_ns,
            self.execute_start_ns,
            self.execute_end_ns,
        ):
            if not moment_ns:
                break
            spent[place] = moment_ns - before_ns
            before_ns = moment_ns
            place += 1
        spent[place] = settled_ns - before_ns
        return tuple(spent)
