"""What comes back from a neighbor over HTTP, and why nothing did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Response", "UnreachableError", "WrongAnswerError"]


class UnreachableError(Exception):
    """The neighbor could not be reached, or the connection was lost before the answer was complete."""


class WrongAnswerError(Exception):
    """What came is no HTTP, or is larger than allowed."""


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    """By name; names are compared without case."""
    body: bytes
