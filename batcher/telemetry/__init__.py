"""Metrics, statistics, event-loop lag and logs of the server.

- Recording: `model` counts what ends (requests, batches, loads), on the event loop's thread and
  without a lock; a request costs a few additions and bisections on plain integers.
- Scraping: `families` defines every metric once, and `collector` turns the counts into Prometheus
  samples at a scrape. Gauges (queue ages and depths, a running execution) are asked for at that
  moment, so the age of a queue that stopped moving keeps growing.
- The event loop: `lag` measures how late timers run, `watchdog` logs what blocks the loop.

Nothing here decides anything: other packages call it, and it calls none of them back but through the
functions that `Telemetry` is given.
"""

from batcher.telemetry.collector import HealthPoints, Telemetry
from batcher.telemetry.lag import probe_loop_lag
from batcher.telemetry.logs import configure_logging
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import AdmissionReason, ReloadResult, ReplyReason, UnreadReason
from batcher.telemetry.repository import RepositoryPoints
from batcher.telemetry.settings import ChangeResult, ChangeSource, SettingsTelemetry
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.statistics import BatchStatistics, Duration, ModelStatisticsSnapshot
from batcher.telemetry.transport import TransportPoints
from batcher.telemetry.watchdog import LoopWatchdog

__all__ = [
    "AdmissionReason",
    "BatchStatistics",
    "ChangeResult",
    "ChangeSource",
    "Duration",
    "HealthPoints",
    "LoopWatchdog",
    "ModelStatisticsSnapshot",
    "ModelTelemetry",
    "ReloadResult",
    "ReplyReason",
    "RepositoryPoints",
    "SettingsTelemetry",
    "Stamps",
    "Telemetry",
    "TransportPoints",
    "UnreadReason",
    "configure_logging",
    "probe_loop_lag",
]
