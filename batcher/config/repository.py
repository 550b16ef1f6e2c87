"""The section `model_repository`, and what applies to every model of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from batcher.config.explain import explain
from batcher.config.model import ModelConfig
from batcher.config.section import CrossCheckError, FilePath, KeyPath, Name, Section, refusal
from batcher.config.units import Duration, format_duration

ModelOverrides: TypeAlias = dict[str, Any]
"""Keys of a model as the file has them, without `name` and `version`; absent ones are not overridden."""


SHORTEST_POLL_NS: Final = 100_000_000
"""The shortest `poll_interval`, in nanoseconds: a scan costs a few system calls a file."""


def _overrides_section() -> type[Section]:
    """`ModelConfig` without name and version, and with an executor that may be left out."""
    fields: dict[str, Any] = {}
    for key, field in ModelConfig.model_fields.items():
        if key == "executor":
            optional = copy.copy(field)
            optional.default = None
            fields[key] = (field.annotation, optional)
        elif key not in {"name", "version"}:
            fields[key] = (field.annotation, field)
    section: type[Section] = create_model("ModelOverrides", __base__=Section, **fields)
    return section


OVERRIDES: Final = _overrides_section()
"""The section of `defaults`, and of a `batcher.yaml` in a model's folder."""


def override_problems(value: object, base_dir: Path | None = None) -> list[tuple[KeyPath, str]]:
    """What is wrong with overrides, each with its path below them."""
    try:
        OVERRIDES.model_validate(value, context={"base_dir": base_dir} if base_dir else None)
    except ValidationError as error:
        return list(explain(error, OVERRIDES))
    return []


def _checked(value: ModelOverrides) -> ModelOverrides:
    CrossCheckError.raise_any(override_problems(value))
    return value


Overrides = Annotated[
    ModelOverrides,
    AfterValidator(_checked),
    # The schema of `OVERRIDES`, which `batcher.config.schema` adds.
    WithJsonSchema({"type": "object"}),
]


class ModelRepositoryConfig(Section):
    """A directory of models in Triton's layout, which are served besides those of `models`."""

    path: FilePath
    """The directory: a folder for each model, in it `config.pbtxt`, a folder for each version, and
    perhaps a `batcher.yaml` with keys of `models[]` that override what `config.pbtxt` says."""
    control: Literal["poll", "explicit"] = "poll"
    """`poll` serves what is there, as each model's version policy says, and follows changes;
    `explicit` serves what `load` names and what an admin call loads."""
    poll_interval: Duration = 5_000_000_000
    """How often the directory is scanned, at least 100ms. A change is taken once two scans in a row
    agree, so that files which are still being copied are not loaded."""
    load: tuple[Name, ...] = ()
    """`explicit` only: the models that are loaded at the start."""
    defaults: Overrides = Field(default_factory=dict)
    """Keys of `models[]`, without `name` and `version`, that apply to every model of the directory
    unless its own files say otherwise. With `batching.target_p99`, `adaptive` batches take the place
    of Triton's settings; an `executor` here runs every model. Relative paths start at the folder of
    the model's version."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        if self.load and self.control != "explicit":
            problems.append((("load",), "no effect under control poll; allowed: with explicit"))
        problems += [
            (("load", place), refusal(name, "each model once"))
            for place, name in enumerate(self.load)
            if name in self.load[:place]
        ]
        if self.poll_interval < SHORTEST_POLL_NS:
            allowed = f"at least {format_duration(SHORTEST_POLL_NS)}"
            got = format_duration(self.poll_interval)
            problems.append((("poll_interval",), refusal(got, allowed)))
        CrossCheckError.raise_any(problems)
        return self
