"""Prints the lowest declared version of every dependency of this repository, as pip constraints.

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
LOWER_BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*>=\s*(?P<version>[0-9.]+)")


def requirements(path: Path) -> Iterator[str]:
    """The requirements of a project: to run, and to be tested if it has such a group."""
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
    """Print one line per dependency with a lower bound; the highest if two projects have one."""
    lowest: dict[str, tuple[int, ...]] = {}
    for path in (ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))):
        for requirement in requirements(path):
            match = LOWER_BOUND.match(requirement)
            if match is None or match["name"] == "batcher-serve":
                continue
            version = tuple(int(part) for part in match["version"].split("."))
            lowest[match["name"]] = max(version, lowest.get(match["name"], ()))
    for name, version in sorted(lowest.items()):
        print(f"{name}=={'.'.join(map(str, version))}")


if __name__ == "__main__":
    main()
