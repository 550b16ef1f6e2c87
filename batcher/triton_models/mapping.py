"""From Triton's words to a section `models[]`: what each field becomes, and what is ignored.

Three sources are merged. Later ones win, key by key: `defaults` of the configuration, the model's
`config.pbtxt`, the `batcher.yaml` in its folder. Two things are otherwise: an `executor` in `defaults`
runs every model, and with a target (or another key that only `adaptive` reads) Triton's batching
settings give way to `adaptive` batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from batcher.config import ModelConfig, ModelOverrides, format_duration
from batcher.config.explain import explain
from batcher.config.policies import POLICIES
from batcher.config.section import KeyPath, dotted, refusal
from batcher.errors import ConfigError
from batcher.triton_models.backends import FILE_NAMES, Backend, backend_of
from batcher.triton_models.model import TritonBatching, TritonModel
from batcher.triton_models.reading import TritonConfig
from batcher.triton_models.sequences import sequence_section
from batcher.triton_models.unused import unused_fields

_ADAPTIVE: Final = ("target_p99", *POLICIES["adaptive"].keys)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where one version of a model lies, and what says how it is served."""

    name: str
    version: int
    folder: Path
    """The model's folder."""
    version_folder: Path
    """The folder of its version: relative paths of options start there."""
    config: TritonConfig | None = None
    """Its `config.pbtxt`; None if it has none."""
    model: TritonModel | None = None
    """What that says."""
    defaults: ModelOverrides = field(default_factory=dict)
    overrides: ModelOverrides = field(default_factory=dict)
    """The model's `batcher.yaml`."""


@dataclass(frozen=True, slots=True)
class MappedModel:
    """A section of `models[]`, and what of the model's configuration has no effect, as text."""

    config: ModelConfig
    ignored: tuple[str, ...] = ()


def mapped(files: ModelFiles) -> MappedModel:
    """The section for one version of a model. Raises `ConfigError` if it cannot be served."""
    mapping = _Mapping(files)
    document = mapping.document()
    if mapping.problems:
        placed = [mapping.placed(path, text) for path, text in mapping.problems]
        raise ConfigError(placed, source=mapping.source)
    try:
        config = ModelConfig.model_validate(document, context={"base_dir": files.version_folder})
    except ValidationError as error:
        found = [f"{dotted(path)}: {text}" for path, text in explain(error, ModelConfig)]
        raise ConfigError(found, source=str(files.folder)) from None
    ignored = [mapping.placed(path, f"ignored: {why}") for path, why in mapping.ignored]
    return MappedModel(config, tuple(ignored))


class _Mapping:
    """One model's mapping; notes what is ignored and what stands in the way."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        self.ignored: list[tuple[KeyPath, str]] = []
        self.problems: list[tuple[KeyPath, str]] = []
        self.source = str(files.folder) if files.config is None else files.config.source

    def placed(self, path: KeyPath, text: str) -> str:
        """The text about a field of `config.pbtxt`, with its path and line."""
        config = self.files.config
        return f"{dotted(path)}: {text}" if config is None else config.placed(path, text)

    def document(self) -> dict[str, Any]:
        """The section as a file would have it."""
        files, model = self.files, self.files.model
        document: dict[str, Any] = {}
        _merge(document, {k: v for k, v in files.defaults.items() if k not in _SPECIAL})
        named, executor = self._executor()
        document["executor"] = executor
        document["options"] = self._options(executor)
        if model is not None:
            if files.config is not None:
                self.ignored += unused_fields(files.config, model, forwarded=named)
            self._instances(document, model)
            self._queue(document, model)
            self._labels(document, model)
            self._sequences(document, model)
        document["batching"] = self._batching(model)
        _merge(document, {k: v for k, v in files.overrides.items() if k not in _SPECIAL})
        return document | {"name": files.name, "version": str(files.version)}

    # The executor

    def _executor(self) -> tuple[bool, str]:
        """Whether an executor is named outside of Triton's configuration, and the executor."""
        for source in (self.files.overrides, self.files.defaults):
            named = source.get("executor")
            if named is not None:
                return True, str(named)
        backend = self._backend()
        self.problems += backend.problems(self.files.model)
        return False, backend.executor

    def _backend(self) -> Backend:
        model = self.files.model
        if model is not None and (model.backend or model.steps):
            return backend_of(model)
        suffixes = {path.suffix for path in _children(self.files.version_folder)}
        for suffix, name in FILE_NAMES.items():
            if suffix in suffixes:
                return backend_of(name)
        return backend_of("")

    def _options(self, executor: str) -> dict[str, Any]:
        defaults, overrides = self.files.defaults, self.files.overrides
        options: dict[str, Any] = {}
        # Options are of one executor: those of another one would be unknown to it.
        if executor == (defaults.get("executor") or "onnxruntime"):
            _merge(options, defaults.get("options") or {})
        if executor == "onnxruntime":
            backend = backend_of("onnxruntime")
            file = self._model_file(backend)
            options.setdefault("path", str(file))
            if self.files.model is not None:
                found, ignored = backend.options(self.files.model)
                options = found | options
                self.ignored += ignored
        if executor == "kserve":
            # Else the neighbor chooses, which may have another newest version at the moment.
            options.setdefault("version", str(self.files.version))
        _merge(options, overrides.get("options") or {})
        return options

    def _model_file(self, backend: Backend) -> Path:
        model = self.files.model
        name = (model.filename if model is not None else "") or backend.filename
        self._check_inside(("default_model_filename",), name)
        path = self.files.version_folder / name
        # A model with weights in files of their own may be a folder.
        return path / name if path.is_dir() else path

    # Batching

    def _batching(self, model: TritonModel | None) -> dict[str, Any]:
        defaults = self.files.defaults.get("batching") or {}
        overrides = self.files.overrides.get("batching") or {}
        batching: dict[str, Any] = {}
        _merge(batching, defaults)
        if model is not None:
            wanted = {**defaults, **overrides}
            policy = wanted.get("policy")
            if policy is None and any(wanted.get(key) is not None for key in _ADAPTIVE):
                policy = "adaptive"
            if self._says_rows(model):
                batching["max_batch_size"] = model.max_batch_size
            most = overrides.get("max_batch_size", batching.get("max_batch_size"))
            if policy is None:
                policy = "fixed" if model.batching or model.sequences else "none"
            batching["policy"] = policy
            self._window(batching, model, most)
        _merge(batching, overrides)
        return batching

    def _says_rows(self, model: TritonModel) -> bool:
        """Whether the configuration says how many rows a batch has: Triton completes one that is silent."""
        config = self.files.config
        given = config is not None and ("max_batch_size",) in config.lines
        return given or bool(model.max_batch_size or model.inputs)

    def _window(self, batching: dict[str, Any], model: TritonModel, most: int | None) -> None:
        """Preferred sizes and delay, where the policy reads them."""
        found, path = _window_of(model)
        policy = batching["policy"]
        for key, (name, value) in found.items():
            if not value:
                continue
            if most == 0:
                self.ignored.append(((*path, key), "the model has no batch axis"))
            elif policy != "fixed":
                self.ignored.append(((*path, key), f"the policy is {policy}"))
            else:
                batching[name] = value

    # Everything else

    def _instances(self, document: dict[str, Any], model: TritonModel) -> None:
        groups = model.instances
        if not groups:
            return
        devices: dict[str, int] = {}
        default = self.files.defaults.get("device") or "cpu"
        for place, group in enumerate(groups):
            device = default
            if group.kind == "cpu":
                device = "cpu"
            elif group.kind == "gpu" or group.gpus:
                device = f"cuda:{group.gpus[0] if group.gpus else 0}"
            devices[device] = devices.get(device, 0) + group.count
            if len(group.gpus) > 1:
                others = ", ".join(map(str, group.gpus[1:]))
                self.ignored.append(
                    (("instance_group", place, "gpus"), _ONE_DEVICE.format(f"GPU {others}"))
                )
        device, count = next(iter(devices.items()))
        document["device"], document["instances"] = device, count
        if len(devices) > 1:
            others = ", ".join(list(devices)[1:])
            self.ignored.append((("instance_group",), _ONE_DEVICE.format(others)))

    def _queue(self, document: dict[str, Any], model: TritonModel) -> None:
        batching = model.batching
        if batching is None:
            return
        queue: dict[str, Any] = {}
        if batching.priority_levels:
            if batching.priority_levels > _MOST_LEVELS:
                self.ignored.append(
                    (("dynamic_batching", "priority_levels"), f"levels beyond {_MOST_LEVELS}")
                )
            queue["priority_levels"] = min(batching.priority_levels, _MOST_LEVELS)
            queue["default_priority"] = min(batching.default_priority, _MOST_LEVELS)
        policy = batching.queue
        if policy.timeout_ns is not None:
            queue["timeout"] = format_duration(policy.timeout_ns)
        if policy.max_requests is not None:
            queue["max_requests"] = policy.max_requests
        config = self.files.config
        given = ("dynamic_batching", "default_queue_policy")
        if config is not None and given in config.lines:
            queue["allow_timeout_override"] = policy.allow_timeout_override
        _merge(document, {"queue": queue} if queue else {})

    def _labels(self, document: dict[str, Any], model: TritonModel) -> None:
        for place, each in enumerate(model.outputs):
            self._check_inside(("output", place, "label_filename"), each.labels)
        outputs = [
            {"output": each.name, "labels": str(self.files.folder / each.labels)}
            for each in model.outputs
            if each.labels
        ]
        if outputs:
            document["outputs"] = [*document.get("outputs", []), *outputs]

    def _sequences(self, document: dict[str, Any], model: TritonModel) -> None:
        if model.sequences is None:
            return
        for place, state in enumerate(model.sequences.states):
            path = ("sequence_batching", "state", place, "initial_state", 0, "data_file")
            self._check_inside(path, state.initial_file)
        config = self.files.config
        idle = ("sequence_batching", "max_sequence_idle_microseconds")
        given = config is not None and idle in config.lines
        section = sequence_section(model.sequences, self.files.folder, idle_given=given)
        _merge(document, {"sequence": section})

    def _check_inside(self, path: KeyPath, name: str) -> None:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            self.problems.append((path, refusal(name, "a file in the model's folder")))


_SPECIAL: Final = ("executor", "options", "batching")
"""Keys that are merged by rules of their own."""

_MOST_LEVELS: Final = 16
"""Of `queue.priority_levels`."""

_ONE_DEVICE: Final = "{}: all instances of a model are on one device"


def _window_of(model: TritonModel) -> tuple[dict[str, tuple[str, Any]], KeyPath]:
    """Triton's field -> our key and value, and where the fields are."""
    batching: TritonBatching | None = model.batching
    path: KeyPath = ("dynamic_batching",)
    sizes: tuple[int, ...] = ()
    delay_ns = 0
    if batching is not None:
        sizes, delay_ns = batching.preferred_sizes, batching.max_delay_ns
    elif model.sequences is not None:
        path = ("sequence_batching", model.sequences.strategy)
        sizes, delay_ns = model.sequences.preferred_sizes, model.sequences.max_delay_ns
    delay = format_duration(delay_ns) if delay_ns else None
    return {
        "preferred_batch_size": ("preferred_batch_sizes", list(sizes)),
        "max_queue_delay_microseconds": ("max_queue_delay", delay),
    }, path


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put the keys of `other` over those of `into`, mapping by mapping."""
    for key, value in other.items():
        below = into.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged = dict(below)
            _merge(merged, value)
            into[key] = merged
        else:
            into[key] = value


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
