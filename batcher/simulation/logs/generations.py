"""Generations in event logs: a model that was loaded again is `name/version~2` there, and so on."""

from __future__ import annotations


def model_of(key: str) -> str:
    """The model that a generation is of: `hello/1` for `hello/1` and for `hello/1~2`."""
    return key.partition("~")[0]
