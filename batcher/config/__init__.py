"""The configuration: one YAML file, validated as a whole before anything starts, then frozen.

`document` parses the text (strictly, with lines and the environment), the sections (`root`, `server`,
`model`, `padding`, `recording`) validate it, `explain` turns their errors into problems with the path,
the value and what is allowed, and `loader` raises all of them at once. `units` parses durations and
sizes, `policies` is the one table of batching policies, `files` checks files that the configuration
names, and `changes` finds how two configurations differ and what of that needs a restart.

Nothing here starts, opens or loads anything. A key is documented where it is defined; the JSON Schema
and docs/configuration.md repeat that text.

A name of this package is imported when it is first asked for: executors read their options with the
leaves of it, and a child process that runs one starts in less than half of the time without the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from batcher.config.addresses import TcpAddress, UnixAddress, parse_address
    from batcher.config.batching import BatchingConfig
    from batcher.config.changes import (
        TUNABLE,
        Change,
        Difference,
        difference,
        loads_again,
        model_changes,
        tunable_settings,
        with_changes,
    )
    from batcher.config.files import file_problems, folder_problems, located
    from batcher.config.fitting import ExecutorBatches
    from batcher.config.loader import load_config, parse_config
    from batcher.config.metrics import MetricsConfig
    from batcher.config.model import (
        HealthConfig,
        ModelConfig,
        QueueConfig,
        RestartConfig,
        WarmupConfig,
    )
    from batcher.config.overrides import changed_model, sections_in_force, sections_of
    from batcher.config.padding import InputConfig, LikeConfig, OutputConfig, PaddingConfig
    from batcher.config.recording import FlightRecorderConfig, JournalConfig
    from batcher.config.repository import ModelOverrides, ModelRepositoryConfig, override_problems
    from batcher.config.root import Config, DeviceConfig, device_limits, gpus_of, limits_of
    from batcher.config.schema import json_schema
    from batcher.config.section import nearest
    from batcher.config.sequence import (
        ControlConfig,
        ControlsConfig,
        SequenceConfig,
        StateConfig,
    )
    from batcher.config.server import ServerConfig, TlsConfig
    from batcher.config.tracing import HeaderFile, TracingConfig, TracingTlsConfig
    from batcher.config.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "TUNABLE",
    "BatchingConfig",
    "Change",
    "Config",
    "ControlConfig",
    "ControlsConfig",
    "DeviceConfig",
    "Difference",
    "ExecutorBatches",
    "FlightRecorderConfig",
    "HeaderFile",
    "HealthConfig",
    "InputConfig",
    "JournalConfig",
    "LikeConfig",
    "MetricsConfig",
    "ModelConfig",
    "ModelOverrides",
    "ModelRepositoryConfig",
    "OutputConfig",
    "PaddingConfig",
    "QueueConfig",
    "RestartConfig",
    "SequenceConfig",
    "ServerConfig",
    "StateConfig",
    "TcpAddress",
    "TlsConfig",
    "TracingConfig",
    "TracingTlsConfig",
    "UnixAddress",
    "WarmupConfig",
    "changed_model",
    "device_limits",
    "difference",
    "file_problems",
    "folder_problems",
    "format_duration",
    "format_size",
    "gpus_of",
    "json_schema",
    "limits_of",
    "load_config",
    "loads_again",
    "located",
    "model_changes",
    "nearest",
    "override_problems",
    "parse_address",
    "parse_config",
    "parse_duration",
    "parse_size",
    "sections_in_force",
    "sections_of",
    "tunable_settings",
    "with_changes",
]

_MODULES: Final = {
    "addresses": ("TcpAddress", "UnixAddress", "parse_address"),
    "batching": ("BatchingConfig",),
    "changes": (
        "TUNABLE",
        "Change",
        "Difference",
        "difference",
        "loads_again",
        "model_changes",
        "tunable_settings",
        "with_changes",
    ),
    "files": ("file_problems", "folder_problems", "located"),
    "fitting": ("ExecutorBatches",),
    "loader": ("load_config", "parse_config"),
    "metrics": ("MetricsConfig",),
    "model": ("HealthConfig", "ModelConfig", "QueueConfig", "RestartConfig", "WarmupConfig"),
    "overrides": ("changed_model", "sections_in_force", "sections_of"),
    "padding": ("InputConfig", "LikeConfig", "OutputConfig", "PaddingConfig"),
    "recording": ("FlightRecorderConfig", "JournalConfig"),
    "repository": ("ModelOverrides", "ModelRepositoryConfig", "override_problems"),
    "root": ("Config", "DeviceConfig", "device_limits", "gpus_of", "limits_of"),
    "schema": ("json_schema",),
    "section": ("nearest",),
    "sequence": ("ControlConfig", "ControlsConfig", "SequenceConfig", "StateConfig"),
    "server": ("ServerConfig", "TlsConfig"),
    "tracing": ("HeaderFile", "TracingConfig", "TracingTlsConfig"),
    "units": ("format_duration", "format_size", "parse_duration", "parse_size"),
}
"""Module -> the names of this package that are defined there."""

_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found
