"""Log messages about a model that the scheduler reports: unreachable targets, failure storms."""

from __future__ import annotations

import logging
from collections.abc import Callable

from batcher.clock import MILLISECOND
from batcher.core.commands import BatchCeiling, FailureStorm
from batcher.core.observation import Observation

log = logging.getLogger(__name__)


def warn_unreachable_target(
    observe: Callable[[], Observation], key: str, took: str = "longer"
) -> None:
    """Warn if a model cannot meet its target; `took` is how long a batch of one row takes."""
    try:
        _warn(observe(), key, took)
    except Exception:
        log.exception("%s: internal error: could not check whether it can meet its target", key)


def _warn(observation: Observation, key: str, took: str) -> None:
    for model in observation.models:
        if model.model != key:
            continue
        target_ms = (model.target_ns or 0) / MILLISECOND
        if model.reachable and model.late_buckets:
            log.warning(
                "%s cannot meet its target of %.3g ms in %d of its padding buckets, where a batch of"
                " one row takes longer; these requests are all late, and served in order of arrival up to"
                " batching.limit. Raise target_p99, or use shorter buckets or a faster device",
                key,
                target_ms,
                model.late_buckets,
            )
        if not model.reachable:
            log.warning(
                "%s cannot meet its target of %.3g ms: a batch of one row takes %s; its requests are"
                " all late, and served in order of arrival up to batching.limit. Raise target_p99, or use a"
                " faster device",
                key,
                target_ms,
                took,
            )


def log_failure_storm(storm: FailureStorm) -> None:
    """Log that a failure storm has begun or is over."""
    if storm.over:
        log.info(
            "%s: failure storm over: batches succeed again, and failed ones are bisected again",
            storm.model,
        )
    else:
        log.error(
            "%s: failure storm: so many batches fail that they are no longer bisected; each failed batch fails as a"
            " whole until one succeeds. Look at the executor's errors above",
            storm.model,
        )


def log_ceiling(ceiling: BatchCeiling) -> None:
    """Log that batches are kept small for want of memory, or are as large as before."""
    if ceiling.over:
        log.info("%s: the device has memory for batches as large as before", ceiling.model)
    else:
        log.warning(
            "%s: the device has no memory for a batch of %d rows: batches have at most %d of that bucket for now,"
            " fewer where that fails as well, and larger ones are tried again later. If it comes back, lower"
            " batching.max_batch_size, or see what else uses the device",
            ceiling.model,
            ceiling.rows,
            ceiling.most_rows,
        )
