"""Settings: one YAML file, validated as a whole before anything starts, then frozen.

The way in: `document` reads the text (strictly, knowing lines and the environment), the sections
(`root`, `server`, `model`) validate it, `explain` turns what they found into problems that name the
path, the value and what is allowed, and `loader` raises them all at once. Units live in `units`:
text in the file, integer nanoseconds and bytes as attributes. `policies` is the one table of
batching policies. `files` looks at what the configuration names on disk. `changes` says how two
configurations differ and what of that a running server takes.
"""

from batcher.config.addresses import TcpAddress, UnixAddress, parse_address
from batcher.config.changes import (
    TUNABLE,
    Change,
    Difference,
    difference,
    tunable_settings,
    with_changes,
)
from batcher.config.files import file_problems, folder_problems, located
from batcher.config.loader import load_config, parse_config
from batcher.config.model import (
    BatchingConfig,
    HealthConfig,
    ModelConfig,
    QueueConfig,
    WarmupConfig,
)
from batcher.config.overrides import changed_model, sections_in_force, sections_of
from batcher.config.padding import InputConfig, LikeConfig, OutputConfig, PaddingConfig
from batcher.config.recording import FlightRecorderConfig, JournalConfig
from batcher.config.root import Config, DeviceConfig, device_limits
from batcher.config.schema import json_schema
from batcher.config.section import nearest
from batcher.config.server import ServerConfig, TlsConfig
from batcher.config.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "TUNABLE",
    "BatchingConfig",
    "Change",
    "Config",
    "DeviceConfig",
    "Difference",
    "FlightRecorderConfig",
    "HealthConfig",
    "InputConfig",
    "JournalConfig",
    "LikeConfig",
    "ModelConfig",
    "OutputConfig",
    "PaddingConfig",
    "QueueConfig",
    "ServerConfig",
    "TcpAddress",
    "TlsConfig",
    "UnixAddress",
    "WarmupConfig",
    "changed_model",
    "device_limits",
    "difference",
    "file_problems",
    "folder_problems",
    "format_duration",
    "format_size",
    "json_schema",
    "load_config",
    "located",
    "nearest",
    "parse_address",
    "parse_config",
    "parse_duration",
    "parse_size",
    "sections_in_force",
    "sections_of",
    "tunable_settings",
    "with_changes",
]
