"""What the files of one model say, and which versions of it are to be served. Blocks.

Everything here takes folders as arguments, so that a model of the directory and one that a load call
brings along are described alike.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batcher.config import ModelConfig, ModelOverrides, override_problems
from batcher.config.document import read_document
from batcher.config.section import dotted, refusal
from batcher.errors import BatcherError, ConfigError, encodable, on_one_line
from batcher.lifecycle.repository.files import (
    VERSION,
    FileStamp,
    Folder,
    TooManyFilesError,
    list_folder,
    stamp_of,
    stamps_below,
)
from batcher.lifecycle.wanted import WantedModel
from batcher.triton_models import (
    ModelFiles,
    TritonConfig,
    TritonModel,
    VersionPolicy,
    mapped,
    model_of,
    read_config,
)
from batcher.triton_models.sequences import INITIAL_STATE

CONFIG_FILE: Final = "config.pbtxt"
OVERRIDES_FILE: Final = "batcher.yaml"

MAX_OVERRIDES_BYTES: Final = 256 * 1024
"""Bytes of a `batcher.yaml`: parsing this much takes seconds, and such files have a few lines."""


@dataclass(frozen=True, slots=True)
class ModelScan:
    """What one scan found of one model."""

    name: str
    stamps: tuple[FileStamp, ...] = ()
    """Equal stamps mean that nothing has changed."""
    present: frozenset[str] = frozenset()
    """The versions that have a folder."""
    wanted: tuple[WantedModel, ...] = ()
    """The versions to serve, newest first."""
    problems: tuple[tuple[str, str], ...] = ()
    """Version, or empty for the model as a whole, and why it cannot be served."""
    ignored: tuple[str, ...] = ()
    """What is read and has no effect, as text."""
    readable: bool = True
    """False: nothing could be found out, so that what is served should stay."""

    def same_files(self, other: ModelScan) -> bool:
        """Whether no file has changed between the two scans, and no version came or went."""
        return (self.readable, self.stamps, self.present) == (
            other.readable,
            other.stamps,
            other.present,
        )


@dataclass(frozen=True, slots=True)
class Described:
    """What the files of a model's folder say: its configuration, and what overrides it."""

    config: TritonConfig | None = None
    model: TritonModel | None = None
    overrides: ModelOverrides = field(default_factory=dict)

    @property
    def versions(self) -> VersionPolicy:
        """Which versions are to be served."""
        return VersionPolicy() if self.model is None else self.model.versions


def describe_folder(name: str, path: Path, folder: Folder) -> Described:
    """What the files in a model's folder say. Raises `ConfigError`, also if they cannot be read."""
    config = None if folder.stamp(CONFIG_FILE) is None else read_config(path / CONFIG_FILE)
    overrides = {}
    if folder.stamp(OVERRIDES_FILE) is not None:
        overrides = read_overrides(path / OVERRIDES_FILE)
    return described(name, config, overrides)


def described(name: str, config: TritonConfig | None, overrides: ModelOverrides) -> Described:
    """The same of a configuration that was read already. Raises `ConfigError` if it is wrong."""
    if config is None:
        return Described(overrides=overrides)
    model = model_of(config)
    if model.name not in {"", name}:
        text = refusal(model.name, f"{name}, the name of its folder, or none")
        raise ConfigError([config.placed(("name",), text)], source=config.source)
    return Described(config, model, overrides)


def read_overrides(path: Path) -> ModelOverrides:
    """Read a `batcher.yaml`. Raises `ConfigError` with every problem, each with its line."""
    source = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_OVERRIDES_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=source) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"not UTF-8 text, at byte {error.start}"], source=source) from None
    if len(data) > MAX_OVERRIDES_BYTES:
        raise ConfigError([f"allowed: at most {MAX_OVERRIDES_BYTES} bytes"], source=source)
    document = read_document(text, os.environ)
    value: Any = {} if document.value is None else document.value
    problems = list(document.problems)
    if not any(path == () for path, _ in problems):
        problems += override_problems(value)
    if problems:
        placed = []
        for where, problem in problems:
            line = document.line(where)
            placed.append(f"{dotted(where)}{f' (line {line})' if line else ''}: {problem}")
        raise ConfigError(placed, source=source)
    return dict(value)


def files_beside(path: Path, folder: Folder) -> tuple[FileStamp, ...]:
    """The files of a model beside its versions: its own, and initial values of sequences."""
    if INITIAL_STATE not in folder.folders:
        return folder.files
    initial = list_folder(path / INITIAL_STATE).files
    return (*folder.files, *(file.below(INITIAL_STATE) for file in initial))


def versions_in(folder: Folder) -> frozenset[str]:
    """The folders whose names are versions."""
    return frozenset(each for each in folder.folders if VERSION.fullmatch(each))


def scan_versions(
    name: str,
    path: Path,
    found: Described,
    present: frozenset[str],
    defaults: ModelOverrides,
    settings: tuple[FileStamp, ...] = (),
    known: ModelScan | None = None,
) -> ModelScan:
    """The versions that the policy chooses of those `present` below `path`, and how each is served.

    `settings` are the stamps of the model's own files. `known` is returned if nothing has changed since.
    Raises OSError.
    """
    chosen = found.versions.chosen(frozenset(map(int, present)))
    files: dict[int, tuple[FileStamp, ...]] = {}
    problems: list[tuple[str, str]] = []
    for version in chosen:
        try:
            files[version] = stamps_below(path / str(version))
        except TooManyFilesError as error:
            problems.append((str(version), f"{path / str(version)}: {error}"))
    stamps = [*settings]
    for version in chosen:
        stamps.append(FileStamp(f"{version}/"))
        stamps += [file.below(str(version)) for file in files.get(version, ())]
    if known is not None and known.stamps == tuple(stamps) and known.present == present:
        return known
    wanted: list[WantedModel] = []
    ignored: list[str] = []
    if found.config is not None:
        ignored += found.config.unknown_fields()
        absent = [each for each in found.versions.specific if str(each) not in present]
        at = ("version_policy", "specific", "versions")
        ignored += [found.config.placed(at, f"version {each} is not there") for each in absent]
    for version, of_version in files.items():
        try:
            mapping = mapped(
                ModelFiles(
                    name,
                    version,
                    path,
                    path / str(version),
                    found.config,
                    found.model,
                    defaults,
                    found.overrides,
                )
            )
        except ConfigError as error:
            problems.append((str(version), one_line(error)))
            continue
        ignored += [each for each in mapping.ignored if each not in ignored]
        wanted.append(
            WantedModel(
                mapping.config,
                path / str(version),
                f"{path / str(version)}: ",
                contents_of(of_version, mapping.config),
            )
        )
    if not chosen:
        problems.append(("", _no_version(path, found, present)))
    return ModelScan(
        name, tuple(stamps), present, tuple(wanted), tuple(problems), tuple(map(encodable, ignored))
    )


def contents_of(files: Iterable[FileStamp], config: ModelConfig) -> str:
    """A text that is another one when a file that the version is made of has changed."""
    beside = {*config.label_files().values()}
    if config.sequence is not None:
        beside |= {each.initial_file for each in config.sequence.state if each.initial_file}
    text = repr((tuple(files), sorted((str(path), stamp_of(path)) for path in beside)))
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def one_line(error: BatcherError) -> str:
    """The problems of a `ConfigError`, or another error's message, on one line."""
    if isinstance(error, ConfigError):
        head = f"{error.source}: " if error.source else ""
        return on_one_line(f"{head}{'; '.join(error.problems)}")
    return on_one_line(str(error))


def _no_version(path: Path, found: Described, present: frozenset[str]) -> str:
    if not present:
        return f"{path} has no folder of a version, such as 1"
    wanted = ", ".join(map(str, found.versions.specific))
    there = ", ".join(sorted(present, key=int))
    return f"none of its versions is chosen by version_policy: got {wanted}; there are: {there}"
