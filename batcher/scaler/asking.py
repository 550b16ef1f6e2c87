"""What a ScaledObject asks for, from the metadata of its trigger; and why it is refused. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

import grpc

from batcher.config.section import nearest
from batcher.errors import BatcherError, on_one_line
from batcher.scaler.metrics import METRICS, Metric

KEYS: Final = ("fleet", "metric", "target", "model")
"""The keys of the metadata that are read."""

KEDA_KEYS: Final = frozenset(
    {
        "scalerAddress",
        "enableTLS",
        "unsafeSsl",
        "tlsCertFile",
        "caCert",
        "tlsClientCert",
        "tlsClientKey",
    }
)
"""Keys that KEDA reads itself and sends along, those of its former versions included."""

MIN_TARGET: Final = 0.001
"""KEDA rounds to thousandths: a smaller target would be 0, by which the HPA cannot divide."""

MAX_TARGET: Final = 1e9

_FROM_ENV: Final = "FromEnv"
"""KEDA replaces the value of a key with this end by that of a variable of the scaled container."""


class RefusedError(BatcherError):
    """Why a call is refused, and with which code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for."""

    fleet: str
    metric: Metric
    model: str
    """Empty: all models."""
    target: float


def read_question(metadata: Mapping[str, str], fleets: Mapping[str, Collection[str]]) -> Question:
    """The question in the metadata of a trigger.

    `fleets` are the configured ones, each with the models that the configuration names. Raises
    `RefusedError` that says what is allowed.
    """
    given = _own_keys(metadata)
    fleet = given.get("fleet", "")
    if not fleet and len(fleets) == 1:
        fleet = next(iter(fleets))
    if not fleet:
        raise _invalid("fleet", "", ", ".join(fleets))
    if fleet not in fleets:
        raise RefusedError(grpc.StatusCode.NOT_FOUND, _refusal("fleet", fleet, fleets))
    name = given.get("metric", next(iter(METRICS)))
    metric = METRICS.get(name)
    if metric is None:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, _refusal("metric", name, METRICS))
    model, models = given.get("model", ""), fleets[fleet]
    if model and models and model not in models:
        raise RefusedError(grpc.StatusCode.NOT_FOUND, _refusal("model", model, models))
    return Question(fleet, metric, model, _target(given.get("target"), metric))


def _own_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """The keys that are read. Raises `RefusedError` for one that has no effect."""
    given: dict[str, str] = {}
    for key, value in metadata.items():
        name = key.removesuffix(_FROM_ENV)
        if name in KEYS:
            # What is written out wins over what an environment says.
            if name == key or name not in metadata:
                given[name] = value.strip()
        elif key not in KEDA_KEYS and name not in KEDA_KEYS:
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"unknown key {_shown(key)} in the metadata of the trigger{_hint(key, KEYS)}; allowed:"
                f" {', '.join(KEYS)}, and those that KEDA reads itself",
            )
    return given


def _target(text: str | None, metric: Metric) -> float:
    allowed = f"a number from {MIN_TARGET:g} to {MAX_TARGET:g} in quotes"
    if text is None:
        if metric.target is None:
            raise _invalid("target", "", f"{allowed}, which {metric.name} needs")
        return metric.target
    try:
        target = float(text)
    except ValueError:
        target = float("nan")
    # Python reads 1_000, too, which no one else does.
    if "_" in text or not isfinite(target) or not MIN_TARGET <= target <= MAX_TARGET:
        raise _invalid("target", text, allowed)
    return target


def _invalid(key: str, value: str, allowed: str) -> RefusedError:
    got = f"{key}: got {_shown(value)}" if value else f"{key}: missing"
    message = f"{got} in the metadata of the trigger; allowed: {allowed}"
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _refusal(key: str, value: str, known: Collection[str]) -> str:
    return (
        f"{key}: got {_shown(value)} in the metadata of the trigger; allowed: {', '.join(known)}"
        f"{_hint(value, known)}"
    )


def _hint(value: str, known: Collection[str]) -> str:
    hint = nearest(value[:128], known)
    return f" (did you mean {hint}?)" if hint else ""


def _shown(text: str) -> str:
    return f'"{on_one_line(text[:60])}"'
