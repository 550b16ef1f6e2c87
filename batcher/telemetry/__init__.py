"""What the server tells about itself: metrics, statistics, event-loop lag and logs.

Everything here runs on the event loop's thread, so recording takes no lock: a request costs a few
additions and bisections on plain integers (`model.py`). Families are defined once (`families.py`)
and turned into Prometheus samples only when somebody scrapes (`collector.py`). What is true now
(queue ages and depths, a running execution) is asked for at that moment rather than remembered, so
that a queue which stopped moving keeps ageing in front of the reader.
"""

from batcher.telemetry.collector import HealthPoints, Telemetry
from batcher.telemetry.lag import probe_loop_lag
from batcher.telemetry.logs import configure_logging
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import AdmissionReason, ReplyReason, UnreadReason
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
    "ReplyReason",
    "SettingsTelemetry",
    "Stamps",
    "Telemetry",
    "TransportPoints",
    "UnreadReason",
    "configure_logging",
    "probe_loop_lag",
]
