"""What a metric family is, and the buckets and labels that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, Protocol

from batcher.clock import SECOND
from batcher.telemetry.histogram import Buckets

MODEL = ("model", "version")
"""Labels of what belongs to a model: its configured names."""


@dataclass(frozen=True, slots=True)
class Values:
    """What a label of a family may hold. Its number is bounded: by `names`, or as `bound` says."""

    meaning: str
    """Words of docs/metrics.md; of a fixed set none are needed."""
    names: tuple[str, ...] = ()
    """All values, where they are a fixed set."""
    bound: str = ""
    """For other sets: what bounds them, as docs/limits.md calls it."""


def one_of(*names: str) -> Values:
    """The values of a label with a fixed set of them, such as the members of an enumeration."""
    return Values("", tuple(str(name) for name in names))


SHARED: Final[Mapping[str, Values]] = {
    "model": Values(
        "configured names, and names of folders in the model repository", bound="models"
    ),
    "version": Values(
        "configured versions, and names of folders in the model repository", bound="models"
    ),
    "device": Values("configured names: `models[].device`", bound="devices of one model"),
    "number": Values(
        "numbers from 0 to `models[].instances` - 1; a replacement has the number of the "
        "instance that was lost",
        bound="instances of one model",
    ),
}
"""Labels that mean the same in every family."""

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


BUCKETS: Final[Mapping[str, Buckets]] = {
    "latencies, in seconds": LATENCY,
    "load times, in seconds": LOAD,
    "rows and requests of a batch": ROWS,
    "fill ratio": FILL,
}
"""All of them, as docs/metrics.md calls what they record."""


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
    values: Mapping[str, Values] = field(default_factory=dict)
    """What the labels may hold that are not in `SHARED`, or differ from it."""
    verbatim: bool = False
    """Whether the name is another product's, and exported as it is."""

    def of_label(self, label: str) -> Values:
        """What the label may hold. Raises KeyError if that was never stated."""
        return self.values[label] if label in self.values else SHARED[label]

    @property
    def exported_name(self) -> str:
        """The name that queries use (of a histogram, the name before `_bucket`)."""
        counter = self.kind == "counter" and not self.verbatim
        return f"{self.name}_total" if counter else self.name


class Area(Protocol):
    """A module with the families of one area; the first line of its docstring says which."""

    __doc__: str | None

    @property
    def FAMILIES(self) -> tuple[Family, ...]:  # noqa: N802 - a constant of a module
        """Its families, in the order in which they are exported."""
