"""Which reports of one replica are believed, and when something was asked of it last. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from batcher.clock import SECOND
from batcher.scaler.report import Cause, ModelName, Report, UnbelievedError

STUCK_NS: Final = 5 * SECOND
"""A report that is the same for so long is not of now: a replica computes one each 100 ms when it is asked."""

CONTRADICTION_NS: Final = 15 * SECOND
"""For how long a replica must refuse, while it reports no load: its load is a mean of 5 s that leaves the busiest
second out, so that it says nothing of one burst. Thrice that is no burst."""

_PAUSE_NS: Final = 5 * SECOND
"""Refusals that are further apart are not those of one overload."""

_NO_LOAD: Final = 0.001
"""A thousandth of a replica is none: KEDA rounds to thousandths, too."""

_FORMER_STARTS: Final = 4
"""Starts that are remembered: to see that several replicas answer at one address, two would do."""


class Judge:
    """Judges the reports of one address, in the order in which they come."""

    def __init__(self, models: Collection[str] = ()) -> None:
        """`models` are those of which a replica must have at least one; empty for any."""
        self._wanted = frozenset(models)
        self._start = ""
        self._former: deque[str] = deque(maxlen=_FORMER_STARTS)
        self._number = 0
        self._number_ns = 0
        self._uptime_s = 0.0
        self._ended: dict[ModelName, int] = {}
        self._refused = 0
        self._refusing_since_ns: int | None = None
        self._refused_ns = 0
        self.asked_ns: int | None = None
        """When something was asked of the replica last, as far as is known; the first report of a start
        counts as such. None before it."""

    def believe(self, report: Report, now_ns: int) -> None:
        """Take the report in. Raises `UnbelievedError` if it is not to be used."""
        names = {name for name, _ in report.models}
        if self._wanted and report.ready and not self._wanted & names:
            raise UnbelievedError(
                Cause.OTHER_MODELS,
                f"it serves {', '.join(sorted(names)[:5]) or 'no model'}; the configuration has"
                f" {', '.join(sorted(self._wanted))}",
            )
        if report.start_id != self._start:
            self._begin(report, now_ns)
        self._in_order(report, now_ns)
        self._activity(report, now_ns)
        self._contradiction(report, now_ns)

    def _begin(self, report: Report, now_ns: int) -> None:
        if report.start_id in self._former:
            self.asked_ns = now_ns
            self._former.append(self._start)
            self._take_start(report, now_ns)
            raise UnbelievedError(
                Cause.ALTERNATES,
                "two starts of replicas answer in turns at this address: list the replicas themselves,"
                " such as by a headless service",
            )
        if self._start:
            self._former.append(self._start)
        self._take_start(report, now_ns)

    def _take_start(self, report: Report, now_ns: int) -> None:
        self._start = report.start_id
        self._number, self._number_ns, self._uptime_s = 0, now_ns, 0.0
        self._ended = {}
        self._refused, self._refusing_since_ns = 0, None
        # What was asked before is not known: it may have been just now.
        self.asked_ns = now_ns

    def _in_order(self, report: Report, now_ns: int) -> None:
        if report.number < self._number:
            raise UnbelievedError(
                Cause.OLDER, f"report {report.number} came after report {self._number}"
            )
        if report.number > self._number:
            if report.uptime_s < self._uptime_s:
                raise UnbelievedError(
                    Cause.OLDER,
                    f"uptime_seconds went from {self._uptime_s:g} back to {report.uptime_s:g}",
                )
            self._number, self._number_ns = report.number, now_ns
            self._uptime_s = report.uptime_s
        elif now_ns - self._number_ns > STUCK_NS:
            raise UnbelievedError(
                Cause.STUCK,
                f"report {report.number} for {(now_ns - self._number_ns) / SECOND:.0f} s",
            )

    def _activity(self, report: Report, now_ns: int) -> None:
        before, self._ended = (
            self._ended,
            {key: model.ended for key, model in report.models.items()},
        )
        news = any(ended != before.get(key, 0) for key, ended in self._ended.items())
        if news or report.pending or (report.load or 0.0) > _NO_LOAD:
            self.asked_ns = now_ns
        for key, ended in before.items():
            if self._ended.get(key, ended) < ended:
                raise UnbelievedError(
                    Cause.OLDER,
                    f"the requests of model {key[0]} went from {ended} back to {self._ended[key]}",
                )

    def _contradiction(self, report: Report, now_ns: int) -> None:
        """Notice that it reports no load, and yet refuses all the time for want of capacity."""
        before, self._refused = (
            self._refused,
            sum(model.refused for model in report.models.values()),
        )
        if report.load is None or report.load > _NO_LOAD:
            self._refusing_since_ns = None
            return
        if self._refused > before:
            if self._refusing_since_ns is None or now_ns - self._refused_ns > _PAUSE_NS:
                self._refusing_since_ns = now_ns
            self._refused_ns = now_ns
        elif now_ns - self._refused_ns > _PAUSE_NS:
            self._refusing_since_ns = None
        if (
            self._refusing_since_ns is not None
            and now_ns - self._refusing_since_ns >= CONTRADICTION_NS
        ):
            raise UnbelievedError(
                Cause.CONTRADICTION,
                f"it reports no load, and has refused requests for want of capacity for"
                f" {(now_ns - self._refusing_since_ns) / SECOND:.0f} s",
            )
