"""Execution providers: from names in the configuration to those that a session really uses.

ONNX Runtime goes on without a provider that it does not have, that cannot start, or that can run
no part of the model, and says so at most in its log. Here each of the three is a finding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnxruntime as ort

from batcher_onnxruntime.names import full, short
from batcher_onnxruntime.options import OnnxRuntimeOptions

CPU: Final = "CPUExecutionProvider"
_NUMBERED_DEVICE: Final = re.compile(r".*?(\d+)")
_GPU: Final = re.compile(r"(?:cuda|gpu)[:_-]?\d*", re.IGNORECASE)
_TAKES_DEVICE_ID: Final = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A provider as the configuration asks for it, by its full name."""

    name: str
    options: Mapping[str, str]


class ProviderError(ValueError):
    """Options of a provider that is not asked for. The message names the option."""


def wanted(options: OnnxRuntimeOptions, device: str) -> list[Wanted]:
    """The providers that the options ask for, in their order.

    A device whose name ends in a number (`cuda:1`, `gpu0`) is that GPU, unless `provider_options`
    sets `device_id`. Raises `ProviderError`.
    """
    names = [full(name) for name in options.providers]
    settings = {full(name): values for name, values in options.provider_options.items()}
    for name in settings.keys() - set(names):
        raise ProviderError(f"option provider_options: {short(name)} is not one of the providers")
    number = _NUMBERED_DEVICE.fullmatch(device)
    found = []
    for name in dict.fromkeys(names):
        given = {key: _text(value) for key, value in settings.get(name, {}).items()}
        if number and name in _TAKES_DEVICE_ID:
            given.setdefault("device_id", number[1])
        found.append(Wanted(name, given))
    return found


def unused(
    asked: Sequence[str], registered: Sequence[str], assigned: Mapping[str, int] | None
) -> str:
    """Why the session does not use what was asked for; empty when it does.

    `registered` is what the session reports, `assigned` how many nodes each provider runs (None
    where this onnxruntime does not tell). The first provider must run something; the others need
    only be there.
    """
    available = ort.get_available_providers()
    for name in asked:
        if name not in available:
            there = ", ".join(map(short, available))
            package = "; the package onnxruntime-gpu has it" if name in _TAKES_DEVICE_ID else ""
            return f"{short(name)} is not in this onnxruntime ({there}){package}"
        if name not in registered:
            return f"{short(name)} could not start; onnxruntime has logged the reason above"
    if assigned and asked[0] != CPU and not assigned.get(asked[0]):
        return f"{short(asked[0])} can run no part of this model"
    return ""


def off_device(asked: Sequence[str], device: str) -> str:
    """Why the model would not run where its device's name says; empty when nothing speaks for it."""
    if not _GPU.fullmatch(device) or any(name != CPU for name in asked):
        return ""
    return f"the device {device} is a GPU by its name, and cpu alone does not run there"


def assigned_nodes(session: Any) -> dict[str, int] | None:
    """Provider -> nodes of the graph that it runs; None where onnxruntime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts: dict[str, int] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        counts[subgraph.ep_name] = counts.get(subgraph.ep_name, 0) + len(subgraph.get_nodes())
    return counts


def _text(value: object) -> str:
    """ONNX Runtime's provider options are text; its booleans are 1 and 0."""
    return str(int(value)) if isinstance(value, bool) else str(value)
