"""The process: readiness, event loop, settings."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from batcher import __version__
from batcher.clock import SECOND
from batcher.core.observation import Observation
from batcher.telemetry.export import histograms, single_values
from batcher.telemetry.families import LATENCY, process
from batcher.telemetry.histogram import Histogram
from batcher.telemetry.parts.part import HealthPoints
from batcher.telemetry.settings import SettingsTelemetry


class ProcessPart:
    """Counts what concerns the process as a whole. Set `draining` when the server begins to shut down."""

    families = process.FAMILIES

    def __init__(self, health: Callable[[], HealthPoints]) -> None:
        self.draining = False
        self.settings = SettingsTelemetry()
        self._health = health
        self._lag = Histogram(LATENCY)
        self._stalls = 0

    def loop_lag(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self._lag.observe(seconds * SECOND)

    def loop_stalled(self, _: float) -> None:
        """Count a stall of the event loop (its length in seconds is not kept)."""
        self._stalls += 1

    def collect(self, _: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        build = (__version__, platform.python_version())
        yield single_values(process.BUILD_INFO, [(build, 1)])
        yield single_values(process.DRAINING, [((), int(self.draining))])
        health = self._health()
        yield single_values(process.READY, [((), int(health.ready))])
        yield single_values(process.MODEL_STATE, health.states)
        yield histograms(process.EVENT_LOOP_LAG, [((), self._lag)])
        yield single_values(process.EVENT_LOOP_STALLS, [((), self._stalls)])
        yield single_values(process.SETTINGS_CHANGES, self.settings.changes.items())
        yield single_values(process.SETTINGS_GENERATION, [((), self.settings.generation)])
        yield single_values(process.SETTINGS_CHANGED_AT, [((), self.settings.changed_at_s)])
