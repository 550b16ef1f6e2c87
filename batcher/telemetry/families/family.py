"""What a metric family is, and the buckets and labels that several of them share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from batcher.clock import SECOND
from batcher.telemetry.histogram import Buckets

MODEL = ("model", "version")
"""Labels of what belongs to a model: its configured names."""

LATENCY = Buckets(
    tuple(
        round(milliseconds * 1_000_000)
        for milliseconds in (
            *(0.1, 0.2, 0.5, 1, 2, 3, 5, 7.5),
            *(10, 15, 20, 30, 50, 75),
            *(100, 150, 200, 300, 500, 750),
            *(1_000, 2_000, 5_000, 10_000, 30_000, 60_000),
        )
    ),
    scale=SECOND,
)
"""Recorded in nanoseconds, exported in seconds, 0.1 ms to 60 s; finest where targets lie."""

LOAD = Buckets((0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600))
ROWS = Buckets(tuple(2**power for power in range(13)))
FILL = Buckets(tuple(tenth / 10 for tenth in range(1, 11)))


class Stage(StrEnum):
    """One stage of a request's latency; their boundaries are the `Stamps`."""

    ADMISSION = "admission"
    QUEUE = "queue"
    GATHER = "gather"
    EXECUTE = "execute"
    SCATTER = "scatter"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `buckets` is given for histograms alone."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: Buckets | None = None

    @property
    def exported_name(self) -> str:
        """The name that queries use (of a histogram, the name before `_bucket`)."""
        return f"{self.name}_total" if self.kind == "counter" else self.name
