"""What the log is told of a model: targets that cannot be met, storms of failures."""

from __future__ import annotations

import logging

from batcher.clock import MILLISECOND
from batcher.core.commands import FailureStorm
from batcher.core.observation import Observation

log = logging.getLogger(__name__)


def warn_of_target(observation: Observation, key: str, took: str) -> None:
    """Warn where a model cannot meet its target; `took` says how long one row alone takes."""
    for model in observation.models:
        if model.model != key:
            continue
        target_ms = (model.target_ns or 0) / MILLISECOND
        if model.reachable and model.late_buckets:
            log.warning(
                "%s cannot meet its target of %.3g ms in %d of its buckets, where one row alone"
                " takes longer; such requests are served late rather than refused",
                key,
                target_ms,
                model.late_buckets,
            )
        if not model.reachable:
            log.warning(
                "%s cannot meet its target of %.3g ms: one row alone takes %s;"
                " it is served late rather than refused",
                key,
                target_ms,
                took,
            )


def log_storm(storm: FailureStorm) -> None:
    """Say that a storm of failures has begun, or that it is over."""
    if storm.over:
        log.info("%s: batches succeed again; those that fail are bisected again", storm.model)
    else:
        log.error(
            "%s: too many batches fail to look for the requests at fault;"
            " batches fail as a whole until it calms",
            storm.model,
        )
