"""Prints the lowest version of every dependency that the projects here declare, as pip constraints.

Write them to a file, and give it to `pip install --constraint`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("test", "demo")
FLOOR = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*>=\s*(?P<version>[0-9.]+)")


def requirements(path: Path) -> Iterator[str]:
    """Everything that a project needs to run, and to be tested if it has such a group."""
    document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    project = document["project"]
    yield from project["dependencies"]
    for extra, wanted in project.get("optional-dependencies", {}).items():
        if extra != "gpu":
            yield from wanted
    groups = document.get("dependency-groups", {})
    for group in GROUPS:
        yield from groups.get(group, ())


def main() -> None:
    """One line for each dependency that declares a floor; the highest where two projects do."""
    floors: dict[str, tuple[int, ...]] = {}
    for path in (ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))):
        for requirement in requirements(path):
            match = FLOOR.match(requirement)
            if match is None or match["name"] == "batcher-serve":
                continue
            version = tuple(int(part) for part in match["version"].split("."))
            floors[match["name"]] = max(version, floors.get(match["name"], ()))
    for name, version in sorted(floors.items()):
        print(f"{name}=={'.'.join(map(str, version))}")


if __name__ == "__main__":
    main()
