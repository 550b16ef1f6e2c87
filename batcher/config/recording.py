"""The sections `journal` and `flight_recorder`: what is kept of what happened."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from batcher.config.section import Count, CrossCheckError, FilePath, KeyPath, Section, refusal
from batcher.config.units import Duration, Size, format_duration, format_size

LEAST_SIZE = 1024**2
"""Of a journal and of a flight recorder's memory, in bytes: a few segments must fit."""

Fraction = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]


class JournalConfig(Section):
    """The event log on disk, for `batcher replay`."""

    folder: FilePath
    """A folder for the files of the log alone; it is created if it does not exist. Files of earlier
    runs count towards the limits."""
    segment_duration: Duration = 10_000_000_000
    """The length of a segment. A replay can start at each segment, and a damaged one leaves the
    others readable."""
    max_segments: Count = 360
    """Segments to keep; the oldest are deleted."""
    max_size: Size = 1024**3
    """The most bytes of all segments together, at least 1MiB; the oldest are deleted."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        CrossCheckError.raise_any(_too_small("max_size", self.max_size))
        return self


class FlightRecorderConfig(Section):
    """The last minutes in memory, written to a file when something goes wrong."""

    folder: FilePath
    """The folder of flight records; it is created if it does not exist."""
    duration: Duration = 180_000_000_000
    """How much of the past is kept in memory."""
    max_memory: Size = 32 * 1024**2
    """The most memory for it, at least 1MiB. Under high load it may hold less than `duration`."""
    min_on_time_ratio: Fraction | None = 0.9
    """A flight record is written when less than this share of a model's requests was answered
    within the target, over 10 s; null turns that off."""
    max_files: Count = 10
    """Flight records to keep; the oldest are deleted."""
    min_interval: Duration = 60_000_000_000
    """The shortest time between two flight records, at most `duration`. One for an incident that
    comes sooner is written when the time is over."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems = _too_small("max_memory", self.max_memory)
        if self.min_interval > self.duration:
            allowed = f"at most duration, which is {format_duration(self.duration)}"
            problems.append(
                (("min_interval",), refusal(format_duration(self.min_interval), allowed))
            )
        CrossCheckError.raise_any(problems)
        return self


def _too_small(key: str, nbytes: int) -> list[tuple[KeyPath, str]]:
    if nbytes >= LEAST_SIZE:
        return []
    return [((key,), refusal(format_size(nbytes), f"at least {format_size(LEAST_SIZE)}"))]
