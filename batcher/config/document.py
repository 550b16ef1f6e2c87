"""YAML text -> plain values with their lines: stricter than YAML, with environment variables.

Scalars follow YAML 1.2's core schema (`no`, `on` and `12:30` are text), a key given twice is an
error, and there are no tags. `${NAME}` and `${NAME:-default}` inside a scalar are replaced after
parsing, so a variable's value can never add structure; an unquoted scalar is then read again, so
that a variable can hold a number or `null`, and a quoted one stays text. `$${` is a literal `${`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from batcher.config.section import KeyPath

_TAG: Final = "tag:yaml.org,2002:"
MOST_VALUES: Final = 100_000

MOST_DEPTH: Final = 64
"""The most open brackets. The parser checks all of them at each token, so that a few thousand would
take seconds."""

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)\}|\$\{")
_BODY: Final = re.compile(
    r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>.*))?", re.DOTALL
)


@dataclass(slots=True)
class Document:
    """A parsed YAML text: its value, the line of every path, and the problems found."""

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)

    def line(self, path: KeyPath) -> int | None:
        """The line (from 1) of the path, or of the innermost part of it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


class _TooDeepError(Exception):
    """More than `MOST_DEPTH` brackets are open."""


class _CoreSchemaLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalar types of YAML 1.2's core schema, and a bound on brackets."""

    def fetch_flow_collection_start(self, token_class: type[yaml.Token]) -> None:
        """Open a bracket, as the parser calls it. Raises `_TooDeepError`."""
        if self.flow_level >= MOST_DEPTH:
            raise _TooDeepError
        super().fetch_flow_collection_start(token_class)


_CoreSchemaLoader.yaml_implicit_resolvers = {}

for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _CoreSchemaLoader.add_implicit_resolver(
        f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


class _TooLargeError(Exception):
    """The document has more than `MOST_VALUES` values, those of aliases included."""


def read_document(text: str, environ: Mapping[str, str]) -> Document:
    """Parse `text`. Never raises for what is in it: the problems are in the result."""
    document = Document()
    try:
        loader = _CoreSchemaLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.value = _Reader(document, loader, environ).read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            document.lines[()] = mark.line + 1
        document.problems.append(((), f"not valid YAML: {_syntax(error, text)}"))
    except yaml.YAMLError as error:
        document.problems.append(((), f"not valid YAML: {' '.join(str(error).split())}"))
    except RecursionError:
        document.problems.append(((), "nested too deeply, or an alias inside its own anchor"))
    except _TooDeepError:
        document.problems.append(((), f"nested too deeply; allowed: {MOST_DEPTH} open brackets"))
    except _TooLargeError:
        document.problems.append(((), f"more than {MOST_VALUES} values, aliases counted"))
    return document


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    mark = error.problem_mark
    if mark is not None:
        lines = text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "${" in line:
            parts.append('inside [ ] or { } write "${NAME}" in quotes')
        elif "\t" in line:
            parts.append("YAML indents with spaces, not tabs")
    return ", ".join(parts)


class _Reader:
    """Turns nodes into values, and notes lines and problems on the way."""

    def __init__(
        self, document: Document, loader: _CoreSchemaLoader, environ: Mapping[str, str]
    ) -> None:
        self._document = document
        self._loader = loader
        self._environ = environ
        self._values = 0

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise _TooLargeError
        self._note(node, path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self._refuse_tag(node, path)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self.read(child, (*path, place)) for place, child in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                several = isinstance(value_node, yaml.SequenceNode)
                merged += value_node.value if several else [value_node]
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            here = (*path, key)
            if key in result:
                self._problem(
                    here,
                    f"given twice, again on line {key_node.start_mark.line + 1}; allowed: once",
                )
                continue
            self._note(key_node, here)
            result[key] = self.read(value_node, here)
        for other in merged:
            if not isinstance(other, yaml.MappingNode):
                self._problem(path, "<< merges mappings only")
                continue
            for key, value in self._mapping(other, path).items():
                result.setdefault(key, value)
        return result

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}str":
            return str(node.value)
        line = node.start_mark.line + 1
        written = f" {node.value}" if isinstance(node, yaml.ScalarNode) else ""
        self._problem(path, f"the key{written} on line {line} is not text; allowed: text")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        tag, text = node.tag, node.value
        if tag == f"{_TAG}str" and "${" in text:
            text = self._expand(text, path)
            if node.style is None:
                tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call] # the stubs leave it untyped
        match tag.removeprefix(_TAG):
            case "str" | "merge":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" | "float" as kind:
                return self._number(kind, text, path)
            case _:
                self._refuse_tag(node, path)
                return None

    def _number(self, kind: str, text: str, path: KeyPath) -> int | float | None:
        try:
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan"))
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        except ValueError:
            self._problem(path, f"got {text[:60]}; allowed: a number")
            return None

    def _expand(self, text: str, path: KeyPath) -> str:
        def replacement(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            body = _BODY.fullmatch(match["body"] or "")
            if body is None:
                self._problem(
                    path,
                    f"got {match[0]}; allowed: ${{NAME}}, ${{NAME:-default}}, or $${{ for a plain ${{",
                )
                return ""
            name = body["name"]
            value = self._environ.get(name)
            if body["fallback"]:
                return value or str(body["default"])
            if value is None:
                self._problem(
                    path,
                    f"{name} is not set in the environment; set it or write ${{{name}:-default}}",
                )
                return ""
            return value

        return _REFERENCE.sub(replacement, text)

    def _refuse_tag(self, node: yaml.Node, path: KeyPath) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self._problem(path, f"got the tag {tag}; allowed: plain values, lists and mappings")

    def _problem(self, path: KeyPath, text: str) -> None:
        self._document.problems.append((path, text))

    def _note(self, node: yaml.Node, path: KeyPath) -> None:
        self._document.lines.setdefault(path, node.start_mark.line + 1)
