"""Identifies the scheduler that recorded a log: only equal code gives equal commands."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable


@cache
def scheduler_fingerprint() -> str:
    """A hash of the source files of `batcher.core`, 16 hex digits; empty if they are unreadable."""
    found = hashlib.sha256()
    try:
        for name, text in sorted(_sources(files("batcher.core"), "")):
            found.update(f"{name}\0{len(text)}\0".encode())
            found.update(text)
    except OSError:
        return ""
    return found.hexdigest()[:16]


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    sources: list[tuple[str, bytes]] = []
    for each in folder.iterdir():
        name = f"{prefix}{each.name}"
        if each.is_dir():
            sources += _sources(each, f"{name}/")
        elif name.endswith(".py"):
            sources.append((name, each.read_bytes()))
    return sources
