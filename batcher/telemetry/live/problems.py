"""What is wrong now, in words, so that the page and the terminal say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from batcher.core.commands import Outcome
from batcher.telemetry.devices.statistics import DeviceState
from batcher.telemetry.live.changes import Severity
from batcher.telemetry.live.window import Window
from batcher.telemetry.load import DeviceLoad, LoadReport, ModelLoad, ReplicaLoad

NOTED_SHARE: Final = 0.01
"""Of the requests that end: with more of them late the p99 target is missed. The same share that the
alerts of docs/running.md begin at."""

CRITICAL_SHARE: Final = 0.1
"""Of the requests that end: one in ten without an answer, or late, is seen by every user."""

OLD_S: Final = 10.0
"""Age of the oldest request of a model without a target that is called old."""

HUNG_RATIO: Final = 3.0
"""Times the target that the oldest request has to be old, to be more than a burst that is being served."""

_RANK: Final = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong; `model` and `version` are empty for the server and its devices."""

    severity: Severity
    text: str
    model: str = ""
    version: str = ""


def rank(severity: Severity) -> int:
    """Higher is worse."""
    return _RANK[severity]


def worst(problems: list[Problem]) -> Severity:
    """The highest severity; `OK` without any."""
    return max((problem.severity for problem in problems), key=rank, default=Severity.OK)


def of_server(report: LoadReport) -> Iterator[Problem]:
    """What is wrong with the server as a whole, and with its devices."""
    replica = report.replica
    if reason := _why_unready(replica):
        severity = Severity.NOTICE if reason == "starting" else Severity.WARNING
        yield Problem(severity, f"server is not ready: {reason}")
    if replica.desired_ratio is not None and replica.desired_ratio > 1:
        text = f"load for {replica.desired_ratio:.2g} replicas like this one"
        yield Problem(Severity.WARNING, text)
    for device in report.devices:
        yield from of_device(device)


def _why_unready(replica: ReplicaLoad) -> str:
    # Models that are not ready are problems of their own.
    return "" if replica.ready or replica.reason.startswith("not ready:") else replica.reason


def of_device(device: DeviceLoad) -> Iterator[Problem]:
    """What is wrong with a device: that there are no statistics for want of a GPU or a driver is not."""
    statistics = device.statistics
    if statistics is None:
        return
    for why in statistics.failures.values():
        yield Problem(Severity.CRITICAL, f"device {device.device} has failed: {why}")
    if statistics.state in _UNREADABLE and not statistics.failures:
        text = _with(
            f"device {device.device} cannot be read, {statistics.state}", statistics.reason
        )
        yield Problem(Severity.WARNING, text)


_UNREADABLE: Final = frozenset({DeviceState.HANGING, DeviceState.LOST, DeviceState.ERROR})


def of_model(load: ModelLoad, window: Window | None) -> Iterator[Problem]:
    """What is wrong with a model, the worst kind first."""
    found = [*_of_state(load), *_too_old(load)]
    if window is not None:
        found += _of_requests(window)
    for severity, text in found:
        yield Problem(severity, text, load.model, load.version)


def _of_state(load: ModelLoad) -> Iterator[tuple[Severity, str]]:
    if load.state in {"failed", "unready"}:
        yield Severity.CRITICAL, _with(load.state, load.reason)
    elif load.state in {"loading", "unloaded"}:
        yield Severity.NOTICE, _with(load.state, load.reason)
    elif load.reason:
        yield Severity.WARNING, load.reason
    for state, count in (load.instances or {}).items():
        if state in {"restarting", "failed", "unhealthy"} and load.state == "ready":
            yield Severity.WARNING, f"{_number(count, 'instance')} {state}"


def _of_requests(window: Window) -> Iterator[tuple[Severity, str]]:
    ended = sum(window.ended.values())
    for outcome, verb in (
        (Outcome.FAILED, "failed"),
        (Outcome.REJECTED, "refused"),
        (Outcome.EXPIRED, "expired"),
    ):
        if rate := window.total(outcome):
            yield _severity(rate / ended, outcome), _share(window, outcome, rate, verb)
    answered = window.total(Outcome.OK)
    if answered and window.late / answered > NOTED_SHARE:
        share = window.late / answered
        severity = Severity.CRITICAL if share > CRITICAL_SHARE else Severity.WARNING
        yield severity, f"{_percent(share)} of answers late"


def _too_old(load: ModelLoad) -> Iterator[tuple[Severity, str]]:
    age_s = max(load.oldest_waiting_age_seconds or 0, load.oldest_executing_age_seconds or 0)
    ratio = load.oldest_request_target_ratio
    if ratio is not None and load.target_seconds is not None and ratio > 1:
        severity = Severity.CRITICAL if ratio > HUNG_RATIO else Severity.WARNING
        yield severity, f"oldest request is {seconds(age_s)} old, {ratio:.2g} x the target"
    if ratio is None and age_s > OLD_S:
        yield Severity.WARNING, f"oldest request is {seconds(age_s)} old"


def _severity(share: float, outcome: Outcome) -> Severity:
    if share > CRITICAL_SHARE:
        return Severity.CRITICAL
    # A request that failed is never expected; a few that were refused may be their callers' fault.
    if share > NOTED_SHARE or outcome is Outcome.FAILED:
        return Severity.WARNING
    return Severity.NOTICE


def _share(window: Window, outcome: Outcome, rate: float, verb: str) -> str:
    reasons = {str(end[1]): n for end, n in window.ended.items() if end[0] is outcome}
    most = max(reasons, key=lambda reason: reasons[reason])
    more = ", ..." if len(reasons) > 1 else ""
    return f"{_percent(rate / sum(window.ended.values()))} of requests {verb} ({most}{more})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < NOTED_SHARE else f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """A time for people: three digits, in ms, s, min or h."""
    if value < 1:
        return f"{1000 * value:.3g} ms" if value < 0.9995 else "1 s"
    if value < 120:
        return f"{value:.3g} s"
    if value < 7200:
        return f"{value / 60:.3g} min"
    return f"{value / 3600:.3g} h"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def _with(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state
