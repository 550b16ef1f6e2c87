"""The journal and the flight recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.journal import IncidentReason, RecordingStatistics
from batcher.telemetry.export import single_values
from batcher.telemetry.families import recording


class RecordingPart:
    """Asks `statistics` for what was recorded at every scrape."""

    families = recording.FAMILIES

    def __init__(self, statistics: Callable[[], RecordingStatistics]) -> None:
        self._recording = statistics

    def collect(self, _: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        recorded = self._recording()
        yield single_values(recording.JOURNAL_BYTES, [((), recorded.written_bytes)])
        yield single_values(recording.JOURNAL_LOST_SEGMENTS, [((), recorded.lost_segments)])
        yield single_values(recording.FLIGHT_RECORDER_MEMORY, [((), recorded.memory_bytes)])
        yield single_values(
            recording.INCIDENTS,
            (((reason,), recorded.incidents.get(reason, 0)) for reason in IncidentReason),
        )
