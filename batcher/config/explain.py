"""Validation errors of pydantic -> problems with a path, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from batcher.config.section import CrossCheckError, KeyPath, Section, nearest, refusal

_ALLOWED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "finite_number": "a finite number",
    "int_from_float": "a whole number",
    "string_type": "text (in quotes, if it looks like a number)",
    "path_type": "the path of a file",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to settings",
    "literal_error": "{expected}",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
}
"""Kind of pydantic error -> what is allowed; `{...}` comes from the context of the error."""

_RENAMED: Final = {
    "ageing": "promote_after",
    "failed_batches": "failure_threshold",
    "load_retry": "load_retry_timeout",
    "max_delay": "max_queue_delay",
    "max_request_batches": "max_batches_per_request",
    "max_streams": "max_concurrent_streams",
    "memory": "max_memory",
    "on_time": "min_on_time_ratio",
    "segment": "segment_duration",
    "watch": "config_poll_interval",
}
"""Names of keys before the first release -> their names now."""

_REPLACED: Final = {
    "when_late": {
        "refuse": "write limit: target instead",
        "serve": "leave it out: requests that miss the target are served, up to their limit",
    },
}
"""Keys before the first release that are no more -> what to write instead, by their value."""


def explain(error: ValidationError, root: type[Section]) -> Iterator[tuple[KeyPath, str]]:
    """Each problem with its path and what was got and is allowed."""
    for details in error.errors(include_url=False):
        path: KeyPath = details["loc"]
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, CrossCheckError):
            for below, text in cause.problems:
                yield (*path, *below), text
        else:
            yield path, _text(details, root)


def _text(details: ErrorDetails, root: type[Section]) -> str:
    kind, path, context = details["type"], details["loc"], details.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(path[-1])
        instead = _REPLACED.get(key, {}).get(str(details["input"]))
        return (
            f"unknown key; {instead}" if instead else _unknown_key(key, section_at(root, path[:-1]))
        )
    if kind == "missing":
        section = section_at(root, path[:-1])
        what = section.model_fields[str(path[-1])].description if section else None
        return f"missing; needed: {_first_sentence(what)}" if what else "missing"
    if kind in ("model_type", "model_attributes_type"):
        section = section_at(root, path)
        keys = ", ".join(section.model_fields) if section else ""
        return refusal(details["input"], f"a mapping with the keys {keys}")
    if kind == "value_error":
        return refusal(details["input"], str(context["error"]))
    template = _ALLOWED.get(kind)
    allowed = template.format_map(context) if template else details["msg"]
    return refusal(details["input"], allowed)


def _first_sentence(text: str) -> str:
    return re.split(r"[.:;] ", " ".join(text.split()))[0].rstrip(".")


def _unknown_key(key: str, section: type[Section] | None) -> str:
    if section is None:
        return "unknown key"
    known = list(section.model_fields)
    if _RENAMED.get(key) in known:
        return f"unknown key; it is called {_RENAMED[key]} now"
    for name in known:
        below = section_at(section, (name,))
        if below is not None and key in below.model_fields and not _is_repeated(section, name):
            return f"unknown key; write it under {name}"
    hint = nearest(key, known)
    guess = f"did you mean {hint}? " if hint else ""
    return f"unknown key; {guess}allowed: {', '.join(known)}"


def _is_repeated(section: type[Section], name: str) -> bool:
    return get_origin(section.model_fields[name].annotation) in (tuple, dict)


def section_at(root: type[Section], path: KeyPath) -> type[Section] | None:
    """The section at `path`, or None if something else is there."""
    annotation: Any = root
    for step in path:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            field = annotation.model_fields.get(str(step))
            annotation = field.annotation if field else None
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
    return _as_section(annotation)


def _as_section(annotation: Any) -> type[Section] | None:
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, Section):
            return option
    return None
