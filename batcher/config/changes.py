"""How two configurations differ, and a model's section with some of its values changed.

`TUNABLE` says which values of a model change in place. Other ones have the model loaded again, and
what is outside of `models` and `devices` needs a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from batcher.config.edit import edited
from batcher.config.model import ModelConfig
from batcher.config.policies import POLICIES, keys_of_policies
from batcher.config.root import Config
from batcher.config.section import KeyPath, dotted

TUNABLE: Final = tuple(
    key
    for key in ("batching", "budget", "queue", "padding", "outputs")
    if key in ModelConfig.model_fields
)
"""Keys of a model whose values change in place, while it is served."""

_KEPT: Final = ("reload", "drain_timeout", "load_retry_timeout")
"""Keys of a model that say how it is loaded and unloaded: a change of them loads nothing."""

BACKEND_KEYS: Final = frozenset({"max_batch_size", "preferred_batch_sizes", "batch_sizes"})
"""Keys of `batching` that the executor's backend decides where they are not set."""

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Change:
    """A value of one model that differs; `path` starts below the model. Values as the file has them.

    An empty path stands for the model itself, which is then `served` or `absent`.
    """

    model: str
    version: str
    path: KeyPath
    old: str
    new: str

    def __str__(self) -> str:
        path = f" {dotted(self.path)}" if self.path else ""
        return f"{self.model}/{self.version}{path}: {self.old} -> {self.new}"


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes one configuration of another: changes of models, and paths that need a restart.

    A model that is new or gone is one `Change` with an empty path; `devices` is no model's.
    """

    changes: tuple[Change, ...] = ()
    restart: tuple[str, ...] = ()
    devices: bool = False


def difference(old: Config, new: Config) -> Difference:
    """What turns `old` into `new`. Models are matched by name and version, not by position."""
    changes: list[Change] = []
    restart: list[str] = []
    for key in Config.model_fields:
        if key not in {"models", "devices"} and getattr(old, key) != getattr(new, key):
            before, after = old.model_dump(mode="json")[key], new.model_dump(mode="json")[key]
            restart += [dotted(path) for path, _, _ in _walk((key,), before, after)]
    known = {(model.name, model.version): model for model in old.models}
    for model in new.models:
        before_it = known.pop((model.name, model.version), None)
        if before_it is None:
            changes.append(Change(model.name, model.version, (), "absent", "served"))
        elif before_it != model:
            changes += model_changes(before_it, model)
    changes += [Change(name, version, (), "served", "absent") for name, version in known]
    return Difference(tuple(changes), tuple(restart), old.devices != new.devices)


def model_changes(old: ModelConfig, new: ModelConfig) -> list[Change]:
    """The values of one model that differ."""
    return [
        Change(new.name, new.version, path, _shown(path, was), _shown(path, now))
        for path, was, now in _walk((), old.document(), new.document())
    ]


def loads_again(old: ModelConfig, new: ModelConfig) -> bool:
    """Whether a model that was loaded as `old` must be loaded again to be served as `new`.

    A larger maximum batch size may need that, too, which depends on what was loaded.
    """
    return (
        any(
            getattr(old, key) != getattr(new, key)
            for key in ModelConfig.model_fields
            if key not in TUNABLE and key not in _KEPT
        )
        or old.label_files() != new.label_files()
        or old.batching.batch_sizes != new.batching.batch_sizes
    )


def with_changes(model: ModelConfig, changes: Mapping[str, str]) -> ModelConfig:
    """The model's section with other values: path below the model -> value in YAML.

    A path may name a whole section; then keys that the value leaves out get their defaults. Raises
    ConfigError with every problem found, each with its path.
    """
    document = model.document()
    # Instances have been warmed up: a smaller maximum may be below those batches now.
    del document["warmup"]
    for key in BACKEND_KEYS - model.batching.model_fields_set:
        if not any(path.startswith(f"batching.{key}") for path in changes):
            # Not set: what the backend says stays in force.
            del document["batching"][key]
    in_order = sorted(changes.items(), key=lambda change: (len(change[0]), change[0]))
    source = f"{model.name} version {model.version}"
    changed = edited(document, in_order, _check_tunable, source)
    return changed.model_copy(update={"warmup": model.warmup})


def tunable_settings(model: ModelConfig) -> dict[str, Any]:
    """The values that may change, as the file would have them, without keys that nothing reads."""
    document = model.document()
    unread = keys_of_policies() - set(POLICIES[model.batching.policy].keys)
    settings: dict[str, Any] = {key: document[key] for key in TUNABLE}
    unread |= {"batch_sizes"}  # it loads the model again
    settings["batching"] = {k: v for k, v in document["batching"].items() if k not in unread}
    return settings


def _walk(path: KeyPath, old: object, new: object) -> Iterator[tuple[KeyPath, object, object]]:
    """Every path at which two documents differ: mappings key by key, lists as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _walk((*path, key), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif old != new:
        yield path, old, new


def _shown(path: KeyPath, value: object) -> str:
    """A value for the log. Options may have secrets, so theirs are not shown."""
    if path[0] == "options" and value is not _ABSENT:
        return "hidden"
    if value is _ABSENT:
        return "absent"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_tunable(path: KeyPath) -> None:
    """Raise ValueError for what cannot change."""
    tunable = ", ".join(TUNABLE)
    if not path:
        raise ValueError(f"an empty path; allowed: keys below {tunable}")
    if path[0] in ModelConfig.model_fields and path[0] not in TUNABLE:
        raise ValueError(
            f"needs the model to be loaded again, for which the configuration file has to change; what"
            f" a call can change: {tunable}"
        )
