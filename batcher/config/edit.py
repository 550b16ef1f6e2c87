"""Values of a model's section set by path: `batching.target_p99`, `padding[0].buckets`.

Values are YAML, and the result goes through the validation of the configuration file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from pydantic import ValidationError

from batcher.config.document import read_document
from batcher.config.explain import explain, section_at
from batcher.config.model import ModelConfig
from batcher.config.section import KeyPath, dotted, refusal
from batcher.errors import ConfigError

_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,6})\]")


def edited(
    document: dict[str, Any],
    values: Iterable[tuple[str, str]],
    check: Callable[[KeyPath], None] | None = None,
    source: str | None = None,
) -> ModelConfig:
    """The model of `document` with these (path, YAML) pairs, in order. Changes `document`.

    `check` raises ValueError for a path that may not be set. Raises `ConfigError` with every
    problem found, each with its path.
    """
    problems: list[str] = []
    for text, value in values:
        try:
            path = _parse_path(text)
            if check is not None:
                check(path)
            read = read_document(value, {})
            if read.problems:
                problems += [f"{text}: {problem}" for _, problem in read.problems]
            else:
                _put(document, path, read.value)
        except ValueError as error:
            problems.append(f"{text}: {error}")
    try:
        model = ModelConfig.model_validate(document)
    except ValidationError as error:
        problems += [f"{dotted(path)}: {text}" for path, text in explain(error, ModelConfig)]
    else:
        if not problems:
            return model
    raise ConfigError(problems, source=source)


def _parse_path(text: str) -> KeyPath:
    """Keys and places, empty for an empty text. Raises ValueError."""
    path: list[str | int] = []
    end = 0
    while end < len(text):
        match = _STEP.match(text, end)
        if match is None:
            raise ValueError("not a path; allowed: keys such as batching.max_batch_size")
        path.append(match[1] if match[2] is None else int(match[2]))
        end = match.end()
    return tuple(path)


def _put(document: dict[str, Any], path: KeyPath, value: object) -> None:
    """Set the value at `path`; keys that no section knows are left to its own validation."""
    node: Any = document
    for place, step in enumerate(path):
        if isinstance(node, list):
            if not isinstance(step, int) or step >= len(node):
                raise ValueError(refusal(step, f"a place in a list of {len(node)}"))
        elif not isinstance(node, dict):
            raise ValueError(f"{dotted(path[:place])} is a value; it has no keys")  # noqa: TRY004 - text from a caller
        elif section_at(ModelConfig, path[:place]) is None:
            # Names in a mapping of the user's own may have dots.
            node[".".join(map(str, path[place:]))] = value
            return
        if place == len(path) - 1:
            node[step] = value
            return
        # A document may leave out what has its default.
        node = node.setdefault(step, {}) if isinstance(node, dict) else node[step]
