"""Asks an executor that implements `ReportsHealth` whether it is healthy."""

from __future__ import annotations

from batcher.errors import describe, on_one_line
from batcher.executor import AsyncExecutor, Executor


def reports_health(executor: Executor | AsyncExecutor) -> bool:
    """Whether an executor implements `ReportsHealth`."""
    return callable(getattr(executor, "healthy", None))


def health_reason(outcome: object) -> str:
    """Why an executor is unhealthy, from what its `healthy` returned or raised; empty if healthy."""
    if outcome is None:
        return ""
    if isinstance(outcome, BaseException):
        return describe(outcome)
    if isinstance(outcome, str):
        return on_one_line(outcome)
    return f"healthy() returned {on_one_line(repr(outcome))}, not a text or None"


def no_answer(timeout_s: float) -> str:
    """The reason for an executor whose `healthy` did not return in time."""
    return f"healthy() has not answered within {timeout_s:g} s"
