"""Checks that a session uses the execution providers that the configuration asks for.

ONNX Runtime silently continues without a provider that it does not have, that cannot start, or that
can run no part of the model. Here each of these is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from batcher_onnxruntime.devices import CUDA, TENSORRT, gpu_options
from batcher_onnxruntime.names import full, short
from batcher_onnxruntime.options import OnnxRuntimeOptions

CPU: Final = "CPUExecutionProvider"
_NUMBERED_DEVICE: Final = re.compile(r".*?(\d+)")
_GPU: Final = re.compile(r"(?:cuda|gpu)[:_-]?\d*", re.IGNORECASE)
_TAKES_DEVICE_ID: Final = (CUDA, TENSORRT)


@dataclass(frozen=True, slots=True)
class RequestedProvider:
    """A provider that the configuration asks for, with its full name and its options."""

    name: str
    options: Mapping[str, str]


class ProviderError(ValueError):
    """Options for a provider that is not asked for. The message names the option."""


def requested_providers(
    options: OnnxRuntimeOptions, device: str, base_dir: Path = Path()
) -> list[RequestedProvider]:
    """The providers that the options ask for, in order.

    A device name that ends in a number (`cuda:1`, `gpu0`) sets `device_id`, unless
    `provider_options` does. Raises `ProviderError`.
    """
    names = [full(name) for name in options.providers]
    settings = {full(name): values for name, values in options.provider_options.items()}
    for name in settings.keys() - set(names):
        raise ProviderError(
            f"option provider_options: got {short(name)}; allowed: a name in option providers"
        )
    number = _NUMBERED_DEVICE.fullmatch(device)
    _check_settings(options, names)
    found = []
    for name in dict.fromkeys(names):
        given = gpu_options(options, name, base_dir)
        given |= {key: _text(value) for key, value in settings.get(name, {}).items()}
        if number and name in _TAKES_DEVICE_ID:
            given.setdefault("device_id", number[1])
        found.append(RequestedProvider(name, given))
    return found


def _check_settings(options: OnnxRuntimeOptions, names: Sequence[str]) -> None:
    """Raise `ProviderError` for a setting that none of the providers would read."""
    if options.memory.limit is not None and CUDA not in names:
        raise ProviderError(
            f"option memory.limit: got {options.memory.limit} bytes without cuda in option providers, whose"
            " arena it bounds"
        )
    if options.memory.extend != "double" and CUDA not in names:
        raise ProviderError("option memory.extend: got exact without cuda in option providers")
    if options.engine_cache is not None and TENSORRT not in names:
        raise ProviderError(
            "option engine_cache: got a folder without tensorrt in option providers"
        )


def unused(
    asked: Sequence[str], registered: Sequence[str], assigned: Mapping[str, int] | None
) -> str:
    """Why the session does not use the providers that were asked for; empty if it does.

    `registered` are the session's providers, `assigned` the number of nodes that each runs (None if
    this onnxruntime does not report it). The first provider must run at least one node.
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
    """Why the model would not run on the device that it is configured for; empty if it would."""
    if not _GPU.fullmatch(device) or any(name != CPU for name in asked):
        return ""
    return f"the device {device} is a GPU by its name, and the only provider is cpu"


def assigned_nodes(session: Any) -> dict[str, int] | None:
    """Provider -> number of graph nodes that it runs; None if onnxruntime does not report it."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts: dict[str, int] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        counts[subgraph.ep_name] = counts.get(subgraph.ep_name, 0) + len(subgraph.get_nodes())
    return counts


def _text(value: object) -> str:
    """An option value as ONNX Runtime takes it: text, with 1 and 0 for booleans."""
    return str(int(value)) if isinstance(value, bool) else str(value)
