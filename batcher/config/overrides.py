"""A model's settings with some changed as a command line has them: `batching.target_p99=40ms`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from batcher.config.edit import edited
from batcher.config.model import ModelConfig
from batcher.errors import ConfigError

SECTIONS: Final = ("batching", "queue")
"""What decides how a model is scheduled, and can be changed."""

_FORM: Final = re.compile(rf"\s*({'|'.join(SECTIONS)})\.[^=]+=.*", re.DOTALL)
_ALLOWED: Final = " or ".join(f"{name}.KEY=VALUE" for name in SECTIONS)


def changed_model(sections: Mapping[str, Any], assignments: Sequence[str]) -> ModelConfig:
    """A model with these sections and assignments (`PATH=VALUE`, the value as YAML has it).

    Raises `ConfigError` with every problem found, of form first.
    """
    malformed = [text for text in assignments if not _FORM.fullmatch(text)]
    if malformed:
        example = "such as batching.target_p99=40ms"
        raise ConfigError([f'got "{text}"; allowed: {_ALLOWED}, {example}' for text in malformed])
    document: dict[str, Any] = {"name": "model", "executor": "any"}
    document |= {name: deepcopy(sections.get(name, {})) for name in SECTIONS}
    pairs = [text.partition("=") for text in assignments]
    return edited(document, [(path.strip(), value) for path, _, value in pairs])
