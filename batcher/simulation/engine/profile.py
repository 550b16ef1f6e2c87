"""Measured service times in a file: what `batcher profile` writes and `batcher simulate` reads.

One JSON object, `{"version": 1, "models": [...]}`; a model's entry names the model, its version,
the executor and the device it was measured with, and, for every batch size, how many batches were
timed and the quantiles of their times in milliseconds. The entry of a padded model has the same for
every bucket, by its longest padded length, under `buckets`; its `sizes` are those of the last bucket.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from batcher.clock import MILLISECOND
from batcher.errors import InputError
from batcher.simulation.engine.service_time import table_of

FORMAT_VERSION: Final = 1
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
"""The quantiles that are kept of each size, beside the mean."""


@dataclass(frozen=True, slots=True)
class SizeProfile:
    """Service times of batches of one size, in milliseconds."""

    samples: int
    mean: float
    quantiles: Mapping[str, float]
    """By the names in `QUANTILES`."""

    @classmethod
    def of(cls, took_ns: Sequence[int]) -> Self:
        """Summary of measured times, at least one."""
        ms = np.array(took_ns, np.float64) / MILLISECOND
        quantiles = {name: round(float(np.quantile(ms, q)), 6) for name, q in QUANTILES.items()}
        return cls(len(took_ns), round(float(ms.mean()), 6), quantiles)


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """One model's service times by batch size."""

    model: str
    model_version: str
    executor: str
    device: str
    sizes: Mapping[int, SizeProfile]
    """Of a padded model those of its last bucket."""
    buckets: Mapping[int, Mapping[int, SizeProfile]] = field(default_factory=dict)
    """By the longest padded length of a bucket, ascending; empty where nothing is padded."""

    def medians_ns(self) -> dict[int, int]:
        """Batch size to nanoseconds: the median, because one slow batch does not change it."""
        return medians_ns(self.sizes)


def medians_ns(sizes: Mapping[int, SizeProfile]) -> dict[int, int]:
    """Batch size to the median of its times, in nanoseconds."""
    return {
        rows: max(1, round(size.quantiles["p50"] * MILLISECOND)) for rows, size in sizes.items()
    }


def profile_document(models: Sequence[ModelProfile]) -> dict[str, object]:
    """The profile as it is written to a file."""
    return {
        "version": FORMAT_VERSION,
        "models": [
            {
                "model": profile.model,
                "model_version": profile.model_version,
                "executor": profile.executor,
                "device": profile.device,
                "sizes": _document(profile.sizes),
            }
            | (
                {
                    "buckets": {
                        str(length): _document(sizes) for length, sizes in profile.buckets.items()
                    }
                }
                if profile.buckets
                else {}
            )
            for profile in models
        ],
    }


def _document(sizes: Mapping[int, SizeProfile]) -> dict[str, object]:
    return {
        str(rows): {"samples": size.samples, "mean": size.mean, **size.quantiles}
        for rows, size in sizes.items()
    }


def read_profile(path: Path) -> dict[tuple[str, str], ModelProfile]:
    """The models of a profile, by name and version. Raises `InputError` naming what is wrong."""
    document = read_object(path)
    if document.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{path}, version: got {document.get('version')!r}; allowed: {FORMAT_VERSION}, as"
            " `batcher profile` writes it"
        )
    entries = document.get("models")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}, models: got {entries!r}; allowed: a list of measured models")
    profiles = [_model(entry, f"{path}, models[{n}]") for n, entry in enumerate(entries)]
    return {(profile.model, profile.model_version): profile for profile in profiles}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `InputError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: got a JSON {type(document).__name__}; allowed: an object, {{...}}"
        )
    return document


def _model(entry: Any, source: str) -> ModelProfile:
    if not isinstance(entry, dict):
        raise InputError(f"{source}: got {entry!r}; allowed: an object")
    names: dict[str, str] = {}
    for key in ("model", "model_version", "executor", "device"):
        name = entry.get(key)
        if not isinstance(name, str):
            raise InputError(f"{source}.{key}: got {name!r}; allowed: a text")
        names[key] = name
    buckets = entry.get("buckets", {})
    good = isinstance(buckets, dict) and all(key.isascii() and key.isdecimal() for key in buckets)
    if not good:
        raise InputError(f"{source}.buckets: got {buckets!r}; allowed: an object by length")
    return ModelProfile(
        **names,
        sizes=_sizes(entry.get("sizes"), f"{source}.sizes"),
        buckets={
            int(length): _sizes(buckets[length], f"{source}.buckets.{length}")
            for length in sorted(buckets, key=int)
        },
    )


def _sizes(sizes: Any, source: str) -> dict[int, SizeProfile]:
    if not isinstance(sizes, dict):
        raise InputError(f"{source}: got {sizes!r}; allowed: an object by batch size")
    columns: dict[str, dict[int, int]] = {}
    for column in (*QUANTILES, "mean"):
        values = {
            key: size.get(column) if isinstance(size, dict) else None for key, size in sizes.items()
        }
        columns[column] = table_of(values, f"{source}, {column}")
    result = {}
    for key, size in sizes.items():
        samples = size.get("samples")
        if type(samples) is not int or samples < 1:
            raise InputError(
                f"{source}.{key}.samples: got {samples!r}; allowed: a whole number from 1 on"
            )
        ms = {column: table[int(key)] / MILLISECOND for column, table in columns.items()}
        mean = ms.pop("mean")
        result[int(key)] = SizeProfile(samples, mean, ms)
    return result
