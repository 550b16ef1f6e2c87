"""How requests ended, and where their time went."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from batcher.core.commands import Outcome
from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.export import histograms, single_values
from batcher.telemetry.families import requests
from batcher.telemetry.reasons import UnreadReason


class RequestsPart:
    """Exports the requests of every model, and counts those that belong to none."""

    families = requests.FAMILIES

    def __init__(self, models: CountedModels) -> None:
        self._models = models
        self._unread = dict.fromkeys(UnreadReason, 0)

    def refused_unread(self, reason: UnreadReason) -> None:
        """Count a request that belongs to no model; the name that it asked for never becomes a label."""
        self._unread[reason] += 1

    def collect(self, _: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        counted = self._models
        for model in counted:
            model.fold()
        yield single_values(
            requests.REQUESTS,
            [
                *((("", "", Outcome.REJECTED, key), count) for key, count in self._unread.items()),
                *(((*m.labels, *key), count) for m in counted for key, count in m.requests.items()),
            ],
        )
        yield single_values(
            requests.TENANT_REQUESTS,
            (((*m.labels, *key), n) for m in counted for *key, n in m.tenants.points()),
        )
        yield single_values(
            requests.PREDICTED_REFUSALS,
            (((*m.labels, cause), n) for m in counted for cause, n in m.refused.items()),
        )
        yield histograms(
            requests.REQUEST_DURATION,
            (
                ((*m.labels, outcome), histogram)
                for m in counted
                for outcome, histogram in m.durations.items()
                # Most models never see most outcomes, and each would cost thirty lines a scrape.
                if outcome is Outcome.OK or histogram.total
            ),
        )
        yield histograms(
            requests.STAGE_DURATION,
            (((*m.labels, key), value) for m in counted for key, value in m.stages.items()),
        )
        yield single_values(
            requests.LATENCY_TARGET_MISSED, ((m.labels, m.target_missed) for m in counted)
        )
        yield single_values(
            requests.BUDGET_EXCEEDED,
            (((*m.labels, hop), n) for m in counted for hop, n in m.budget.exceeded.items()),
        )
        yield single_values(
            requests.LATE_ANSWERS,
            (((*m.labels, hop), n) for m in counted for hop, n in m.budget.late.items()),
        )
        yield single_values(
            requests.UPSTREAM_IGNORED, ((m.labels, m.budget.ignored) for m in counted)
        )
