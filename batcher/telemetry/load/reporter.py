"""`LoadReporter`: the one place in which a `LoadReport` comes to be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from batcher import __version__
from batcher.clock import MILLISECOND, SECOND, Clock, monotonic_ns
from batcher.telemetry.load.computation import LoadSources, Slices
from batcher.telemetry.load.identity import Identity
from batcher.telemetry.load.report import LoadReport, ReplicaLoad

REPORT_INTERVAL_NS: Final = 100 * MILLISECOND
"""The least time between two reports: who asks in between gets the last one. Load balancers and
autoscalers act on seconds, so a longer interval would only make ages coarser; at half of it, many askers
would cost twice as much of the event loop."""

PAUSE_RATIO: Final = 20
"""A report serves for at least this many times as long as the processor took for it, which with hundreds of models is
longer than the interval: reports take a twentieth of the event loop's time at most. At 14 it is a fourteenth."""

LATEST_NS: Final = SECOND
"""The most that a report from `latest` is old: as balancers weigh servers anew once a second, by default."""


class LoadReporter:
    """Computes load reports; the last one serves all who ask within `REPORT_INTERVAL_NS`.

    After a change of the server's health the next report is a new one. Call every method on the event
    loop's thread.
    """

    def __init__(
        self,
        identity: Identity,
        sources: LoadSources,
        *,
        clock: Clock = monotonic_ns,
        epoch_clock: Clock = time.time_ns,
        cost_clock: Clock = time.thread_time_ns,
    ) -> None:
        self.sources = sources
        self._identity = identity
        self._clock = clock
        self._epoch_clock = epoch_clock
        self._cost_clock = cost_clock
        self._started_ns = clock()
        self._last: LoadReport | None = None
        self._last_ns = 0
        """When the last one was begun."""
        self._health = self._last_health = 0
        """How often the server's health has changed, and had when the last report was begun."""
        self._interval_ns = REPORT_INTERVAL_NS
        """For how long the last report serves."""
        self._computing: tuple[asyncio.Task[LoadReport], int, int] | None = None
        """A computation in slices, when it was begun, and how often health had changed before it."""

    async def current(self) -> LoadReport:
        """The report of this moment, or one that is at most `REPORT_INTERVAL_NS` old (see `PAUSE_RATIO`).

        It is computed in slices, once for all who wait for it.
        """
        last = self._fresh(self._interval_ns)
        return last if last is not None else await asyncio.shield(self._begun())

    def report(self) -> LoadReport:
        """The same for one who cannot wait: computed in one go, about 40 µs a model."""
        last = self._fresh(self._interval_ns)
        if last is not None:
            return last
        *_, report = self._slices()
        assert report is not None  # noqa: S101 - the last slice is a report
        return report

    def latest(self) -> LoadReport:
        """A report at once: one that is at most `LATEST_NS` old, while a newer one is computed for later."""
        last = self._fresh(max(LATEST_NS, self._interval_ns))
        if last is None:
            return self.report()
        if self._fresh(self._interval_ns) is None:
            self._begun()
        return last

    def health_changed(self) -> None:
        """Note that the server's health has changed: who asks next must not be told what it was."""
        self._health += 1

    def _fresh(self, most_ns: int) -> LoadReport | None:
        """The last report, unless it is older, or of another health."""
        if self._last_health != self._health or self._clock() - self._last_ns >= most_ns:
            return None
        return self._last

    def _begun(self) -> asyncio.Task[LoadReport]:
        """The computation that is under way, or a new one."""
        now_ns = self._clock()
        if self._computing is not None:
            task, began_ns, health = self._computing
            recent = now_ns - began_ns < self._interval_ns and health == self._health
            if recent and not task.done():
                return task
        task = asyncio.create_task(self._in_slices(), name="load-report")
        # Where it fails, those who wait are told; the last one who might have waited may be gone.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self._computing = task, now_ns, self._health
        return task

    async def _in_slices(self) -> LoadReport:
        for report in self._slices():
            if report is not None:
                return report
            await asyncio.sleep(0)
        raise AssertionError("the last slice is a report")

    def _slices(self) -> Iterator[LoadReport | None]:
        """None after each slice, and last the report."""
        sources, began_ns, health = self.sources, self._clock(), self._health
        took_ns, slice_ns = 0, self._cost_clock()
        timestamp_s = self._epoch_clock() / SECOND
        observation = sources.observe()
        took_ns += self._cost_clock() - slice_ns
        yield None
        slice_ns = self._cost_clock()
        slices = Slices(sources, observation, began_ns)
        replica = ReplicaLoad(
            replica=self._identity.replica,
            start_id=self._identity.start_id,
            version=__version__,
            uptime_seconds=(began_ns - self._started_ns) / SECOND,
            ready=slices.health.ready,
            draining=sources.draining(),
            reason=slices.health.reason,
            desired_ratio=observation.desired_ratio,
            buffered_bytes=sources.buffers.used,
            buffered_limit_bytes=sources.buffers.limit,
        )
        devices = slices.devices()
        for _ in slices.compute_models():
            took_ns += self._cost_clock() - slice_ns
            yield None
            slice_ns = self._cost_clock()
        took_ns += self._cost_clock() - slice_ns
        last = self._last
        if last is not None and self._last_ns > began_ns:
            yield last  # another one was begun later, and computed in one go
            return
        number = 1 if last is None else last.number + 1
        self._last = LoadReport(number, timestamp_s, replica, tuple(slices.models), devices)
        self._last_ns, self._last_health = began_ns, health
        self._interval_ns = max(REPORT_INTERVAL_NS, PAUSE_RATIO * took_ns)
        yield self._last
