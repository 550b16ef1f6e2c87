"""Every metric family, defined once: name, kind, unit, labels, buckets and meaning.

Names are Prometheus names in base units; a counter's name is written here without the `_total`
that both text formats add. No label ever holds anything of a single request. Each module holds the
families of one subject, and docs/metrics.md has the table of all of them.
"""

from batcher.telemetry.families import (
    batches,
    models,
    process,
    queue,
    recording,
    repository,
    requests,
    sequences,
    transport,
)
from batcher.telemetry.families.family import FILL, LATENCY, LOAD, ROWS, Family, Stage

__all__ = [
    "FAMILIES",
    "FILL",
    "LATENCY",
    "LOAD",
    "ROWS",
    "Family",
    "Stage",
    "batches",
    "models",
    "process",
    "queue",
    "recording",
    "repository",
    "requests",
    "sequences",
    "transport",
]

FAMILIES: tuple[Family, ...] = (
    *process.FAMILIES,
    *queue.FAMILIES,
    *requests.FAMILIES,
    *batches.FAMILIES,
    *models.FAMILIES,
    *sequences.FAMILIES,
    *recording.FAMILIES,
    *transport.FAMILIES,
    *repository.FAMILIES,
)
"""All of them, in the order in which they are exported and documented."""
