"""`LiveView`: what the page and `batcher top` show, as values for JSON (docs/live-view.md has the fields)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any, Protocol, TypeAlias

from batcher.core.commands import Outcome
from batcher.telemetry.export import Labels
from batcher.telemetry.live.changes import Changes, ModelStates, Severity, States
from batcher.telemetry.live.problems import Problem, of_model, of_server, rank, worst
from batcher.telemetry.live.sampler import Counted, ModelSample, Sampler
from batcher.telemetry.live.window import BATCH_BOUNDS, WINDOW_S, Window
from batcher.telemetry.load import LoadReport, ModelLoad, RecentLoad, document
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import CALLER_ERRORS
from batcher.telemetry.settings import ChangeResult, ChangeSource

Values: TypeAlias = dict[str, Any]

_ASKED = {
    ChangeSource.FILE: "the configuration file",
    ChangeSource.SIGNAL: "SIGHUP",
    ChangeSource.RPC: "an admin call",
}


class InstanceStatus(Protocol):
    """What is compared of an instance."""

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def why(self) -> str: ...  # noqa: D102


class ModelStatus(Protocol):
    """What is compared of a model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def instances(self) -> Sequence[InstanceStatus]: ...  # noqa: D102


class ServerStatus(Protocol):
    """What is compared of the server."""

    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def models(self) -> Sequence[ModelStatus]: ...  # noqa: D102


class LiveView:
    """Samples everything once a second, and makes values of it when someone looks.

    Call `sample` once a second, on the event loop's thread. `report` is the load report of now, `health`
    the state of the server and its models.
    """

    def __init__(
        self,
        sampler: Sampler,
        changes: Changes,
        counted: Counted,
        health: Callable[[], ServerStatus],
        report: Callable[[], LoadReport],
    ) -> None:
        self._sampler = sampler
        self._changes = changes
        self._counted = counted
        self._health = health
        self._report = report

    def sample(self) -> None:
        """Read all counters, and note what has changed."""
        self._sampler.sample()
        self._changes.compare(self._states())

    def settings_changed(self, source: ChangeSource, result: ChangeResult, detail: str) -> None:
        """Note a change of settings that was asked for; one that changes nothing is none."""
        if result is ChangeResult.UNCHANGED:
            return
        severity = Severity.NOTICE if result is ChangeResult.APPLIED else Severity.WARNING
        said = f": {detail}" if detail else ""
        self._changes.note(severity, f"settings by {_ASKED[source]} {result.value}{said}")

    def recent(self, labels: Labels) -> RecentLoad | None:
        """The last seconds of a model, for the load report; None before its second sample."""
        sample = self._sampler.of(*labels)
        window = None if sample is None else sample.window
        if window is None:
            return None
        return RecentLoad(
            window.seconds,
            sum(window.ended.values()),
            window.total(Outcome.OK),
            window.total(Outcome.REJECTED),
            window.total(Outcome.EXPIRED) + window.total(Outcome.FAILED),
            sum([rate for (_, reason), rate in window.ended.items() if reason in CALLER_ERRORS]),
            window.p50_s,
            window.p99_s,
        )

    def now(self) -> Values:
        """Everything but the history."""
        report = self._report()
        problems = list(of_server(report))
        models = [self._model(load, problems) for load in report.models]
        problems.sort(key=lambda problem: -rank(problem.severity))
        return {
            "timestamp_seconds": round(report.timestamp_seconds, 3),
            "window_seconds": WINDOW_S,
            "server": document(report.replica),
            "status": {"level": worst(problems), "text": _headline(report, problems)},
            "problems": [asdict(problem) for problem in problems],
            "models": models,
            "devices": [document(device) for device in report.devices],
            "changes": [asdict(change) for change in self._changes.newest_first()],
        }

    def histories(self) -> list[Values]:
        """The last five minutes of each model, in the order of `now`'s models."""
        return [
            {"name": sample.name, "version": sample.version, **sample.history.columns()}
            for sample in self._sampler.models
        ]

    def _states(self) -> States:
        health = self._health()
        counted = {model.labels: model for model in self._counted}
        names = [model.name for model in health.models]
        return States(
            "not all models are ready" if health.reason.startswith("not ready:") else health.reason,
            {
                model.name if names.count(model.name) == 1 else f"{model.name}/{model.version}": (
                    _model_states(model, counted.get((model.name, model.version)))
                )
                for model in health.models
            },
        )

    def _model(self, load: ModelLoad, problems: list[Problem]) -> Values:
        sample = self._sampler.of(load.model, load.version)
        window = None if sample is None else sample.window
        found = list(of_model(load, window))
        problems += found
        return {
            "name": load.model,
            "version": load.version,
            "state": load.state,
            "reason": load.reason,
            "level": worst(found),
            "problems": [problem.text for problem in found],
            "target_seconds": load.target_seconds,
            "age_seconds": _oldest(
                load.oldest_waiting_age_seconds, load.oldest_executing_age_seconds
            ),
            "oldest_request_target_ratio": load.oldest_request_target_ratio,
            "queue_requests": load.queue_requests,
            "executing_requests": load.executing_requests,
            "generation": load.generation,
            "instances": load.instances,
            "totals": {
                "latency_target_missed": load.latency_target_missed,
                "ended": [[each.outcome, each.reason, each.count] for each in load.requests],
                "batches": load.batches,
                "batch_rows": load.batch_rows,
            },
            "devices": _devices(load, window),
            "recent": None if window is None else _recent(window),
            "second": None if sample is None else _second(sample),
        }


def _devices(load: ModelLoad, window: Window | None) -> list[Values]:
    busy = {} if window is None else window.busy
    return [
        {
            "device": each.device,
            "executor_busy_seconds": each.executor_busy_seconds,
            "duty_cycle_ratio": _rounded(busy.get(each.device)),
            "load_ratio": _rounded(each.load_ratio),
        }
        for each in load.devices
    ]


def _recent(window: Window) -> Values:
    sizes = list(window.batch_sizes)
    while len(sizes) > 1 and not sizes[-1]:
        sizes.pop()
    return {
        "window_seconds": round(window.seconds, 2),
        "arrived": _rounded(window.arrived),
        "answered": _rounded(window.total(Outcome.OK)),
        "late": _rounded(window.late),
        "refused": _rounded(window.total(Outcome.REJECTED)),
        "expired": _rounded(window.total(Outcome.EXPIRED)),
        "cancelled": _rounded(window.total(Outcome.CANCELLED)),
        "failed": _rounded(window.total(Outcome.FAILED)),
        "reasons": [
            [outcome, reason, _rounded(rate)]
            for (outcome, reason), rate in window.ended.items()
            if outcome is not Outcome.OK
        ],
        "latency_p50_seconds": _rounded(window.p50_s),
        "latency_p99_seconds": _rounded(window.p99_s),
        "batches": _rounded(window.batches),
        "batch_rows": _rounded(window.batch_rows),
        "batch_sizes": sizes,
        "batch_bounds": BATCH_BOUNDS[: len(sizes)],
    }


def _second(sample: ModelSample) -> Values:
    """The last point of the history, for those who have the others."""
    last = sample.history.last()
    return {"age_seconds": last.age_s, "arrived": last.arrived, "unserved": last.unserved}


def _model_states(model: ModelStatus, counted: ModelTelemetry | None) -> ModelStates:
    counts: dict[str, int] = {}
    if counted is not None:
        counts = {f"instance lost ({reason})": n for reason, n in counted.losses.items()}
        counts["an attempt to load an instance failed"] = counted.load_failures
        counts["the batching policy failed"] = counted.policy_failures
    return ModelStates(
        str(model.state),
        model.reason,
        {each.number: (str(each.state), each.why) for each in model.instances},
        1 if counted is None else counted.generation,
        counts,
    )


def _headline(report: LoadReport, problems: list[Problem]) -> str:
    """The most important thing, in one line."""
    if problems and problems[0].severity is not Severity.NOTICE:
        first = problems[0]
        more = len(problems) - 1
        name = f"{first.model}: " if first.model else ""
        return f"{name}{first.text}{f', and {more} more' if more else ''}"
    if not report.replica.ready:
        return f"not ready: {report.replica.reason}"
    count = len(report.models)
    if not count:
        return "ready; no model is served"
    return f"{count} model{'s' if count > 1 else ''}, nothing is wrong"


def _oldest(*ages_s: float | None) -> float | None:
    known = [age_s for age_s in ages_s if age_s is not None]
    return _rounded(max(known)) if known else None


def _rounded(value: float | None) -> float | None:
    """Four digits: what people read, and small to send."""
    return None if value is None or not isfinite(value) else float(f"{value:.4g}")
