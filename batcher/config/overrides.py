"""Changes of a model's settings by path: `batching.target_p99=40ms`, as a command line has them.

They go through the validation of the configuration file, and errors name the path as it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from pydantic import ValidationError

from batcher.config.document import read_document
from batcher.config.explain import explain
from batcher.config.model import ModelConfig
from batcher.config.section import dotted
from batcher.errors import ConfigError

SECTIONS: Final = ("batching", "queue")
"""What decides how a model is scheduled, and can be changed."""


def changed_model(sections: Mapping[str, Any], assignments: Sequence[str]) -> ModelConfig:
    """A model with these sections and assignments (`PATH=VALUE`, the value as YAML has it).

    Raises `ConfigError` with every problem found.
    """
    document: dict[str, Any] = {"name": "model", "executor": "any"}
    document |= {name: deepcopy(sections.get(name, {})) for name in SECTIONS}
    problems = [problem for text in assignments if (problem := _assign(document, text))]
    if not problems:
        try:
            return ModelConfig.model_validate(document)
        except ValidationError as error:
            problems = [f"{dotted(path)}: {text}" for path, text in explain(error, ModelConfig)]
    raise ConfigError(problems)


def _assign(document: dict[str, Any], text: str) -> str | None:
    """Carry out one assignment, or say what is wrong with it."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or keys[0] not in SECTIONS or not all(keys):
        allowed = " or ".join(f"{name}.KEY=VALUE" for name in SECTIONS)
        return f'got "{text}"; allowed: {allowed}, such as batching.target_p99=40ms'
    read = read_document(value, {})
    if read.problems:
        return f'{path}: got "{value}": {read.problems[0][1]}'
    place = document
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            return f"{path}: {key} is no mapping"
    place[keys[-1]] = read.value
    return None
