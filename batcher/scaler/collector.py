"""What `/metrics` of the scaler exports."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from batcher import __version__
from batcher.clock import SECOND, Clock
from batcher.scaler import families
from batcher.scaler.fleet import Fleet
from batcher.scaler.metrics import METRICS
from batcher.scaler.replica import PollResult, State
from batcher.scaler.report import Cause
from batcher.scaler.service import ScalerService
from batcher.scaler.streams import Streams
from batcher.telemetry.export import histograms, single_values
from batcher.telemetry.families import LATENCY, process
from batcher.telemetry.histogram import Histogram

log = logging.getLogger(__name__)

_DESIRED_RATIO: Final = METRICS["desired_ratio"]


class ScalerCollector(Collector):
    """Every family of `families.FAMILIES`, in that order. Call its methods, and collect, on the event loop."""

    def __init__(
        self,
        fleets: dict[str, Fleet],
        service: ScalerService,
        streams: Streams,
        clock: Clock,
        ready: Callable[[], bool],
    ) -> None:
        self._fleets = fleets
        self._service = service
        self._streams = streams
        self._clock = clock
        self._ready = ready
        self._lag = Histogram(LATENCY)
        self._stalls = 0

    def loop_lag(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self._lag.observe(seconds * SECOND)

    def loop_stalled(self, _: float) -> None:
        """Count a stall of the event loop."""
        self._stalls += 1

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples of this moment. What raises loses its own families, and no others."""
        for part in (self._process, self._answers, self._replicas, self._lists, self._calls):
            try:
                yield from part()
            except Exception:
                log.exception("internal error in the metrics of the scaler; some are missing")

    def _process(self) -> Iterator[Metric]:
        build = (__version__, platform.python_version())
        yield single_values(process.BUILD_INFO, [(build, 1)])
        yield single_values(process.READY, [((), int(self._ready()))])
        yield histograms(process.EVENT_LOOP_LAG, [((), self._lag)])
        yield single_values(process.EVENT_LOOP_STALLS, [((), self._stalls)])

    def _answers(self) -> Iterator[Metric]:
        yield single_values(
            families.ACTIVE,
            (
                ((name,), int(active))
                for name, fleet in self._fleets.items()
                if (active := fleet.activity().active) is not None
            ),
        )
        yield single_values(
            families.LOAD,
            (
                ((name,), found.value)
                for name, fleet in self._fleets.items()
                if (found := fleet.value(_DESIRED_RATIO, "").estimate) is not None
            ),
        )

    def _replicas(self) -> Iterator[Metric]:
        now_ns = self._clock()
        yield single_values(
            families.REPLICAS,
            (
                ((name, state), states[state])
                for name, fleet in self._fleets.items()
                for states in [fleet.states()]
                for state in State
            ),
        )
        yield single_values(
            families.REPORT_AGE,
            (
                ((name,), age_ns / SECOND)
                for name, fleet in self._fleets.items()
                if (age_ns := fleet.report_age_ns(now_ns)) is not None
            ),
        )
        counts = {name: fleet.counts for name, fleet in self._fleets.items()}
        yield single_values(
            families.POLLS,
            (
                ((name, result), each.polls[result])
                for name, each in counts.items()
                for result in PollResult
            ),
        )
        yield histograms(
            families.POLL_DURATION, (((name,), each.durations) for name, each in counts.items())
        )
        yield single_values(
            families.UNBELIEVED,
            (
                ((name, cause), each.unbelieved[cause])
                for name, each in counts.items()
                for cause in Cause
            ),
        )

    def _lists(self) -> Iterator[Metric]:
        now_ns = self._clock()
        looks = [
            (name, each.found) for name, each in self._fleets.items() if each.found is not None
        ]
        yield single_values(families.LISTED, (((name,), int(found.ok)) for name, found in looks))
        yield single_values(
            families.LISTINGS,
            (
                ((name, word), fleet.counts.listings[ok])
                for name, fleet in self._fleets.items()
                for word, ok in (("ok", True), ("failed", False))
            ),
        )
        yield single_values(
            families.LIST_AGE,
            (((name,), (now_ns - found.at_ns) / SECOND) for name, found in looks),
        )

    def _calls(self) -> Iterator[Metric]:
        yield single_values(
            families.WAKES,
            (
                ((name, result), fleet.counts.wakes[result])
                for name, fleet in self._fleets.items()
                for result in families.WAKES.values["result"].names
            ),
        )
        yield single_values(families.CALLS, self._service.calls.items())
        yield single_values(families.STREAMS, [((), len(self._streams))])
