"""Every metric family, defined once: name, kind, unit, labels, buckets and meaning.

Names are Prometheus names in base units; a counter's name is written here without the `_total`
that both text formats add. No label ever holds anything of a single request. Each module holds the
families of one area, and docs/metrics.md has the tables of all of them: the first line of a module's
docstring is the heading (`tools/generate_metrics_page.py`).
"""

from __future__ import annotations

from batcher.telemetry.families import (
    batches,
    gpus,
    models,
    process,
    queue,
    recording,
    repository,
    requests,
    scale,
    sequences,
    tracing,
    transport,
    triton,
)
from batcher.telemetry.families.family import (
    BUCKETS,
    FILL,
    LATENCY,
    LOAD,
    ROWS,
    Area,
    Family,
    Stage,
    Values,
    one_of,
)

__all__ = [
    "AREAS",
    "BUCKETS",
    "FAMILIES",
    "FILL",
    "LATENCY",
    "LOAD",
    "OPTIONAL",
    "ROWS",
    "Area",
    "Family",
    "Stage",
    "Values",
    "batches",
    "gpus",
    "models",
    "one_of",
    "process",
    "queue",
    "recording",
    "repository",
    "requests",
    "scale",
    "sequences",
    "tracing",
    "transport",
    "triton",
]

AREAS: tuple[Area, ...] = (
    process,
    queue,
    scale,
    requests,
    batches,
    models,
    gpus,
    sequences,
    recording,
    tracing,
    transport,
    repository,
)
"""The modules with families, in the order in which they are exported and documented."""

FAMILIES: tuple[Family, ...] = tuple(family for area in AREAS for family in area.FAMILIES)
"""All of them, in that order."""

OPTIONAL: tuple[Family, ...] = triton.FAMILIES
"""Families that are exported if the configuration says so, after all others."""
