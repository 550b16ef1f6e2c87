"""From a file to a `Config`, or another root section, or to everything that is wrong with it at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from batcher.config.document import Document, read_document
from batcher.config.explain import explain
from batcher.config.root import Config
from batcher.config.section import KeyPath, Section, dotted
from batcher.errors import ConfigError

Root = TypeVar("Root", bound=Section)


def load_config(path: str | Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and validate the file. Relative paths in it start at its folder.

    Raises ConfigError with every problem found, also when the file cannot be read. Files that the
    configuration names are not looked at: see `files`.
    """
    return load_document(path, Config, environ)


def load_document(
    path: str | Path, root: type[Root], environ: Mapping[str, str] = os.environ
) -> Root:
    """The same of a file whose keys are those of the section `root`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"not UTF-8 text, at byte {error.start}"], source=str(path)) from None
    return parse_document(text, root, str(path), environ, base_dir=path.absolute().parent)


def parse_config(
    text: str,
    source: str = "<text>",
    environ: Mapping[str, str] = os.environ,
    *,
    base_dir: Path | None = None,
) -> Config:
    """Validate a YAML text; `source` names it in errors, `base_dir` is where its paths start.

    Raises ConfigError with every problem found, in the order of the text's lines.
    """
    return parse_document(text, Config, source, environ, base_dir=base_dir)


def parse_document(
    text: str,
    root: type[Root],
    source: str = "<text>",
    environ: Mapping[str, str] = os.environ,
    *,
    base_dir: Path | None = None,
) -> Root:
    """The same of a text whose keys are those of the section `root`."""
    document = read_document(text, environ)
    problems = list(document.problems)
    config: Root | None = None
    if not any(path == () for path, _ in problems):
        try:
            context: dict[str, Any] = {"text": text}
            if base_dir is not None:
                context["base_dir"] = base_dir
            config = root.model_validate(
                {} if document.value is None else document.value, context=context
            )
        except ValidationError as error:
            known = {path for path, _ in problems}
            problems += [found for found in explain(error, root) if found[0] not in known]
    if problems or config is None:
        raise ConfigError(list(_render(document, problems)), source=source) from None
    return config


def _render(document: Document, problems: list[tuple[KeyPath, str]]) -> Iterator[str]:
    for path, text in sorted(problems, key=lambda problem: document.line(problem[0]) or 0):
        line = document.line(path)
        place = f" (line {line})" if line else ""
        yield f"{dotted(path)}{place}: {text}"
