"""One emulated device behind a server: its configuration, and the figures that the server reports."""

from __future__ import annotations

import time
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

BASE_MS, ROW_MS, MOST_ROWS, TARGET_MS = 5.0, 0.5, 32, 50.0
CAPACITY = MOST_ROWS / (BASE_MS + ROW_MS * MOST_ROWS) * 1e3


def config(transport: str) -> dict[str, Any]:
    """One emulated device, as in the bars."""
    return {
        "server": {"transport": transport},
        "models": [
            {
                "name": "hello",
                "executor": "emulated",
                "options": {"base": f"{BASE_MS}ms", "per_row": f"{ROW_MS}ms", "columns": 16},
                "batching": {"max_batch_size": MOST_ROWS, "target_p99": f"{TARGET_MS:g}ms"},
            }
        ],
    }


class Figures:
    """The server's metrics at one moment."""

    def __init__(self, http: str) -> None:
        self.at_s = time.monotonic()
        with urllib.request.urlopen(f"http://{http}/metrics") as answer:
            self._families = list(text_string_to_metric_families(answer.read().decode()))

    def __call__(self, name: str, stage: str | None = None) -> float:
        """A family's sum over its series."""
        return sum(
            sample.value
            for family in self._families
            for sample in family.samples
            if sample.name == name and sample.labels.get("stage") == stage
        )


class Grown:
    """By how much figures have grown between two moments."""

    def __init__(self, before: Figures, after: Figures) -> None:
        self._before, self._after = before, after
        self.seconds = after.at_s - before.at_s

    def __call__(self, name: str, stage: str | None = None) -> float:
        """A family's sum over its series."""
        return self._after(name, stage) - self._before(name, stage)

    def stage_ms(self, stage: str) -> float:
        """What a request spent in a stage, on average."""
        name = "batcher_stage_duration_seconds"
        return 1e3 * self(f"{name}_sum", stage) / self(f"{name}_count", stage)
