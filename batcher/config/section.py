"""What every section of the configuration is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
)

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where in the document: keys of mappings and places in lists."""


Item = TypeVar("Item")


class Section(BaseModel):
    """A mapping of the configuration file: frozen, and every key of it is known.

    Attributes are named as the keys. Durations are int nanoseconds and sizes int bytes; serialized,
    they are text with units again, so a dumped section validates to an equal one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CrossCheckError(ValueError):
    """Keys of one section that do not go together: (path below the section, text) pairs.

    Raised by a section's own validator, so that several such problems arrive at once.
    """

    def __init__(self, problems: list[tuple[KeyPath, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems

    @classmethod
    def raise_any(cls, problems: list[tuple[KeyPath, str]]) -> None:
        """Raise if there are problems."""
        if problems:
            raise cls(problems)


def shown(value: object) -> str:
    """The value as the file could have it, short enough for one line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted(path: KeyPath) -> str:
    """A path as messages name it: `models[0].batching.target_p99`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the document"


def refusal(value: object, allowed: str) -> str:
    """What was got and what is allowed, the one form of every complaint about a value."""
    return f"got {shown(value)}; allowed: {allowed}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    matches = get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A validator that takes only the names in `known`."""

    def check(value: str) -> str:
        names = list(known)
        if value not in names:
            hint = nearest(value, names)
            suffix = f" (did you mean {hint}?)" if hint else ""
            raise ValueError(", ".join(names) + suffix)
        return value

    return check


def _text(pattern: str, allowed: str) -> tuple[AfterValidator, WithJsonSchema]:
    """Text that matches `pattern` whole, in the validator and in the schema alike."""
    compiled: Final = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(allowed)
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


_NAME = _text(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
    "letters, digits, '.', '_' and '-', at most 128, a letter or digit first",
)
_DEVICE = _text(
    r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}",
    "letters, digits, '.', '_', ':' and '-', at most 64, a letter or digit first",
)
_GPU: Final = re.compile(
    r"(?:GPU-|MIG-)[0-9A-Za-z/-]{1,100}|(?:(?:[0-9A-Fa-f]{4}|[0-9A-Fa-f]{8}):)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.0)?"
)


def _gpu(value: object) -> object:
    number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_GPUS
    if number or (isinstance(value, str) and _GPU.fullmatch(value)):
        return value
    raise ValueError(
        "a number as nvidia-smi counts, a UUID (GPU-... or MIG-...), or a PCI bus id (0000:3b:00.0)"
    )


_MOST_GPUS: Final = 4095
_VERSION = _text(r"[1-9][0-9]{0,17}", 'a positive whole number in quotes, such as "1"')

Name = Annotated[str, *_NAME]
"""A name that is safe in a metric label, a log line and a file name."""

DeviceName = Annotated[str, *_DEVICE]
"""A device's name, such as `cpu`, `gpu0` or `cuda:0`."""

GpuName = Annotated[
    int | str,
    BeforeValidator(_gpu),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _MOST_GPUS},
                {"type": "string", "pattern": f"^(?:{_GPU.pattern})$"},
            ]
        }
    ),
]
"""A GPU: its number in nvidia-smi, its UUID, or its PCI bus id."""

Version = Annotated[str, *_VERSION]
"""A model version: a positive integer as text, the way the wire carries it."""


def _some(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if not values:
        raise ValueError("at least one")
    return values


AT_LEAST_ONE: Final = (
    # pydantic's own minimum counts the valid items only, and complains twice about the others.
    AfterValidator(_some),
    Field(json_schema_extra={"minItems": 1}),
)
"""Annotations of a list that may not be empty."""

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
"""A whole number from 1."""


def _against_base_dir(path: Path, info: ValidationInfo) -> Path:
    if path == Path():
        raise ValueError("the path of a file")
    base_dir = (info.context or {}).get("base_dir")
    return path if base_dir is None else base_dir / path


FilePath = Annotated[Path, AfterValidator(_against_base_dir)]
"""A file; when loaded from a configuration file, a relative path starts at that file's folder."""
