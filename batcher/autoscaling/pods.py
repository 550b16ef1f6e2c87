"""The pods of a workload as an autoscaler sees them, and which of them count for an average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batcher.autoscaling.settings import HpaSettings


class Phase(Enum):
    """How far a pod has come; containers that are not ready run nonetheless."""

    PENDING = "Pending"
    RUNNING = "Running"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `started_ns` is when its node took it, `ready_changed_ns` when it last became ready or unready.

    `terminating`: it was told to end. `requested` is what it requests of the resource whose utilization is measured.
    """

    name: str
    phase: Phase = Phase.RUNNING
    ready: bool = True
    terminating: bool = False
    started_ns: int = 0
    ready_changed_ns: int = 0
    requested: float = 1.0

    @property
    def counts(self) -> bool:
        """Whether the workload counts it among its replicas."""
        return not self.terminating and self.phase is not Phase.FAILED


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pod used: a mean over `window_ns` that ends at `at_ns`."""

    value: float
    at_ns: int = 0
    window_ns: int = 0


@dataclass(frozen=True, slots=True)
class Groups:
    """The names of pods by how their values are treated; what is in none of them is ignored."""

    measured: tuple[str, ...]
    """They have a value that counts."""
    unready: tuple[str, ...]
    """They start: 0 if the others call for more replicas, else they are left out."""
    missing: tuple[str, ...]
    """They run and have no value: taken for what works against the change."""


def group(
    pods: Sequence[Pod],
    values: Mapping[str, Measured],
    settings: HpaSettings,
    now_ns: int,
    *,
    cpu: bool,
) -> Groups:
    """Returns the pods by group. `cpu`: the values are processor time, which pods that start use for starting."""
    measured, unready, missing = [], [], []
    for pod in pods:
        if not pod.counts:
            continue
        if pod.phase is Phase.PENDING:
            unready.append(pod.name)
            continue
        value = values.get(pod.name)
        if value is None:
            missing.append(pod.name)
        elif cpu and _still_starting(pod, value, settings, now_ns):
            unready.append(pod.name)
        else:
            measured.append(pod.name)
    return Groups(tuple(measured), tuple(unready), tuple(missing))


def _still_starting(pod: Pod, value: Measured, settings: HpaSettings, now_ns: int) -> bool:
    if pod.started_ns + settings.cpu_initialization_ns > now_ns:
        whole_window_ns = pod.ready_changed_ns + value.window_ns
        return not pod.ready or value.at_ns < whole_window_ns
    never_ready = pod.started_ns + settings.initial_readiness_delay_ns > pod.ready_changed_ns
    return not pod.ready and never_ready
