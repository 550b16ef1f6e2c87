"""One replica of a fleet: what it last said, and how much of that is known now. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from batcher.scaler.discovery import Endpoint
from batcher.scaler.judging import Judge
from batcher.scaler.readings import Readings
from batcher.scaler.report import Cause, Report, UnbelievedError, read_report


class State(StrEnum):
    """What is known of a replica."""

    KNOWN = "known"
    """It takes requests, and its report is of now."""
    NOT_READY = "not_ready"
    """It starts or drains: its report says so, or the list does and it cannot be reached yet."""
    KEPT = "kept"
    """It does not answer, or not believably; its last believed report is young enough to count."""
    UNKNOWN = "unknown"
    """It does not answer, or not believably, and no such report is young enough."""


class PollResult(StrEnum):
    """How asking a replica ended."""

    BELIEVED = "believed"
    UNBELIEVED = "unbelieved"
    TIMEOUT = "timeout"
    """No answer within `poll.timeout`."""
    UNREACHABLE = "unreachable"
    """No connection: nothing listens there, or TLS fails."""
    TOO_LARGE = "too_large"
    """A report of more than 1 MiB."""
    FAILED = "failed"
    """Another status: it is no batcher, or is broken."""


MISSED_POLLS: Final = 3
"""Polls that may fail in a row before a replica is unknown: one that is lost says nothing. What it says is then
a few seconds old, which is little beside `idle_after`."""

_NOT_UP: Final = frozenset({PollResult.UNREACHABLE})


class Replica:
    """What is known of one address. Times are of the monotonic clock, in nanoseconds."""

    def __init__(
        self,
        endpoint: Endpoint,
        now_ns: int,
        *,
        models: Collection[str] = (),
        fresh_ns: int,
        keep_ns: int,
        average_ns: int = 0,
    ) -> None:
        """A report counts as of now for `fresh_ns`, and after that, while there is no newer one, for `keep_ns`.

        `average_ns` is for how long it is averaged with later ones.
        """
        self.endpoint = endpoint
        self.seen_ns = now_ns
        """When it was listed first."""
        self.report: Report | None = None
        """The last that was believed."""
        self.readings = Readings(average_ns)
        """That and those before it, which are averaged."""
        self.believed_ns = 0
        """When that came."""
        self.result: PollResult | None = None
        """How the last poll ended; None before the first has."""
        self.cause: Cause | None = None
        """Why the last report was not believed; None unless it was not."""
        self.error = ""
        """The same, or why there was none, in words."""
        self.news = False
        """Whether the last poll ended in another way than the one before."""
        self.fresh_ns = fresh_ns
        """For how long a report counts as of now."""
        self._keep_ns = keep_ns
        self._judge = Judge(models)

    def answered(self, data: bytes, now_ns: int) -> None:
        """Take in a serialized report."""
        try:
            report = read_report(data)
            self._judge.believe(report, now_ns)
        except UnbelievedError as error:
            self._end(PollResult.UNBELIEVED, str(error), error.cause)
        else:
            self.report, self.believed_ns = report, now_ns
            self.readings.add(report, now_ns)
            self._end(PollResult.BELIEVED)

    def failed(self, result: PollResult, error: str) -> None:
        """Take in that a poll brought no report."""
        self._end(result, error)

    def _end(self, result: PollResult, error: str = "", cause: Cause | None = None) -> None:
        self.news = (result, cause) != (self.result, self.cause)
        self.result, self.cause, self.error = result, cause, error

    @property
    def said(self) -> str:
        """How the last poll ended, in words."""
        if self.result is PollResult.BELIEVED:
            return "its reports are believed"
        if self.result is PollResult.UNBELIEVED:
            return f"its report is not believed: {self.error}"
        return f"it brings no report: {self.error}"

    @property
    def worked_ns(self) -> int | None:
        """When something was asked of it last; its first report counts as such. None: it never reported."""
        return self._judge.asked_ns

    @property
    def asked_ns(self) -> int:
        """When something was asked of it last; when it was listed first, if that is later."""
        asked_ns = self._judge.asked_ns
        return self.seen_ns if asked_ns is None else max(asked_ns, self.seen_ns)

    def age_ns(self, now_ns: int) -> int | None:
        """The age of the last believed report; None: there was none."""
        return None if self.report is None else now_ns - self.believed_ns

    def state(self, now_ns: int) -> State:
        """What is known of it."""
        age_ns = self.age_ns(now_ns)
        # A report that is not believed is no lost poll: something is wrong.
        fresh = age_ns is not None and age_ns <= self.fresh_ns and self.cause is None
        if fresh and self.report is not None:
            # The list may still say that it is ready when it drains, or for longer that it is not.
            return State.KNOWN if self.report.ready else State.NOT_READY
        if self.endpoint.ready is False and self.result in _NOT_UP:
            return State.NOT_READY
        if self.endpoint.ready is False and self.result is not None and self.report is None:
            # It was never ready, and so has no load.
            return State.NOT_READY
        if age_ns is not None and age_ns <= self._keep_ns:
            return State.KEPT
        return State.UNKNOWN

    def reported(self, now_ns: int) -> Report | None:
        """The report that counts now; None where there is none, or it is too old."""
        age_ns = self.age_ns(now_ns)
        usable = age_ns is not None and age_ns <= max(self._keep_ns, self.fresh_ns)
        return self.report if usable else None

    def is_known(self, now_ns: int) -> bool:
        """Whether its own word says how busy it is now. What only the list says is no such word."""
        age_ns = self.age_ns(now_ns)
        return age_ns is not None and age_ns <= self.fresh_ns and self.cause is None
