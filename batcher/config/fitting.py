"""What a loaded executor says of its batches, and the section `batching` that fits it."""

from __future__ import annotations

from typing import Any

from batcher.config.batching import MOST_BATCH_ROWS, BatchingConfig, listed
from batcher.config.policies import POLICIES
from batcher.config.section import refusal
from batcher.core.record import record


@record
class ExecutorBatches:
    """The batches that a loaded executor takes."""

    most: int | None = None
    """The most rows; None if it does not say."""
    preferred: tuple[int, ...] = ()
    """The sizes that it executes best."""
    sizes: tuple[int, ...] = ()
    """The only sizes that it can execute; () for any."""
    full: bool = False
    """Whether it can execute `batching.max_batch_size` only."""


def fitting(batching: BatchingConfig, executor: ExecutorBatches) -> dict[str, Any]:
    """The keys of `batching` that follow from the executor, where the section does not set them.

    Raises `ValueError`, which names both sides, where the section asks for what it cannot do.
    """
    most, changes = executor.most, dict[str, Any]()
    sizes = _sizes(batching, executor)
    if "max_batch_size" not in batching.model_fields_set:
        if sizes:
            changes["max_batch_size"] = sizes[-1]
        elif most is not None:
            changes["max_batch_size"] = min(most, MOST_BATCH_ROWS)
    rows = changes.get("max_batch_size", batching.max_batch_size)
    if most is not None and rows > most:
        allowed = f"at most {most}, the most rows that the executor's backend takes"
        raise ValueError(f"batching.max_batch_size: {refusal(rows, allowed)}")
    if executor.full and rows and not sizes:
        sizes = (rows,)
        if batching.batch_sizes not in {None, sizes}:
            allowed = f"[{rows}], as the executor runs batches of max_batch_size rows only"
            raise ValueError(f"batching.batch_sizes: {refusal(batching.batch_sizes, allowed)}")
    if sizes and rows not in sizes:
        allowed = f"one of {listed(sizes)}, the batch sizes that the executor can run"
        if rows < sizes[0]:
            allowed += ": no batch size holds so few rows and no more"
        raise ValueError(f"batching.max_batch_size: {refusal(rows, allowed)}")
    if sizes:
        changes["batch_sizes"] = sizes
    reads = "preferred_batch_sizes" in POLICIES[batching.policy].keys
    if reads and "preferred_batch_sizes" not in batching.model_fields_set:
        changes["preferred_batch_sizes"] = tuple(
            sorted({size for size in executor.preferred if 0 < size <= rows})
        )
    return changes


def _sizes(batching: BatchingConfig, executor: ExecutorBatches) -> tuple[int, ...]:
    """The sizes of the section if it has any, else the executor's. Raises `ValueError`."""
    own, theirs = batching.batch_sizes, executor.sizes
    if not theirs:
        return () if own is None or executor.full else own
    known = listed(theirs)
    if list(theirs) != sorted(set(theirs)) or not 1 <= theirs[0] <= theirs[-1] <= MOST_BATCH_ROWS:
        raise ValueError(
            f"the executor's batch_sizes: got {known}; allowed: ascending sizes from 1 to"
            f" {MOST_BATCH_ROWS}, each once"
        )
    if not batching.max_batch_size:
        raise ValueError(
            f"batching.max_batch_size: got 0 (a model without a batch axis); allowed: one of {known},"
            " the batch sizes that the executor can run"
        )
    if own is not None and not set(own) <= set(theirs):
        wrong = listed(tuple(size for size in own if size not in theirs))
        allowed = f"sizes among {known}, those that the executor can run"
        raise ValueError(f"batching.batch_sizes: got {wrong}; allowed: {allowed}")
    most = executor.most
    usable = tuple(size for size in own or theirs if most is None or size <= most)
    if not usable:
        raise ValueError(
            f"the executor's batch_sizes: got {known}; allowed: at least one up to {most}, the most"
            " rows that it says its backend takes: no batch size is one that a request fits"
        )
    return usable
