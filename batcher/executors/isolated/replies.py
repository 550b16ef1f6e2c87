"""Reads what a child says, and believes only what can be true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from batcher.executor import CAUSES, Capabilities, ModelMetadata
from batcher.executors.isolated.messages import LOAD_ERRORS, VERSION
from batcher.executors.isolated.values import checked

MAX_TEXT: Final = 64 * 1024
"""Characters of a text that a child says, all rows' errors apart; what is shown of it is shorter."""


class LyingChildError(Exception):
    """A child said something that cannot be true: its memory may be damaged."""


@dataclass(slots=True)
class Hello:
    """What the executor's class is."""

    capabilities: Capabilities
    is_async: bool
    asks: bool
    watches: bool


@dataclass(slots=True)
class Times:
    """Monotonic nanoseconds, as in `ExecutedBatch`: when the child took a batch up, and so on."""

    began_ns: int
    submitted_ns: int
    execute_start_ns: int
    execute_end_ns: int
    ended_ns: int


@dataclass(slots=True)
class Failure:
    """Why a batch failed."""

    times: Times
    cause: str
    message: str
    retry_after_ns: int | None


def parts(message: list[Any], *kinds: type) -> list[Any]:
    """What is said after the kind of a message. Raises `LyingChildError` for other types."""
    said = message[1:]
    if len(said) != len(kinds):
        raise LyingChildError(f"a message of kind {message[0]} with {len(said)} parts")
    for each, kind in zip(said, kinds, strict=True):
        if kind is not object and type(each) is not kind:
            raise LyingChildError(
                f"a message of kind {message[0]} with {type(each).__name__} for {kind.__name__}"
            )
        if kind is str and len(each) > MAX_TEXT:
            raise LyingChildError(f"a text of {len(each)} characters")
    return said


def hello(message: list[Any]) -> Hello:
    """Read HELLO."""
    version, capabilities, is_async, asks, watches = parts(message, int, dict, bool, bool, bool)
    if version != VERSION:
        raise LyingChildError(
            f"it speaks version {version} of the messages, and this server {VERSION}: batcher was"
            " replaced on disk while the server ran; restart it"
        )
    try:
        made = checked(capabilities, Capabilities)
    except ValueError as error:
        raise LyingChildError(f"wrong capabilities: {error}") from None
    return Hello(made, is_async, asks, watches)


def loaded(message: list[Any]) -> tuple[ModelMetadata, bool]:
    """Read LOADED: what `load` returned, and whether batches are pipelined."""
    metadata, pipelined = parts(message, dict, bool)
    try:
        return checked(metadata, ModelMetadata), pipelined
    except ValueError as error:
        raise LyingChildError(f"wrong metadata: {error}") from None


def not_loaded(message: list[Any]) -> tuple[str, str]:
    """Read NOT_LOADED: the name of an error, and its message."""
    name, text = parts(message, str, str)
    if name not in LOAD_ERRORS:
        raise LyingChildError(f"an error of load named {name[:20]!r}")
    return name, text


def failure(message: list[Any], given_ns: int, now_ns: int) -> Failure:
    """Read FAILED, of a batch that was given to the child at `given_ns`."""
    _, said, cause, text, retry_after_ns = parts(message, int, list, str, str, object)
    if cause not in CAUSES:
        raise LyingChildError(f"a batch that failed for {cause[:20]!r}")
    if retry_after_ns is not None and (type(retry_after_ns) is not int or retry_after_ns < 0):
        raise LyingChildError("a time to come back that is none")
    return Failure(times(said, given_ns, now_ns), cause, text, retry_after_ns)


def times(said: list[Any], given_ns: int, now_ns: int) -> Times:
    """Read the times of a batch: they cannot lie before it was given, nor in the future."""
    if len(said) != 5 or any(type(each) is not int for each in said):
        raise LyingChildError("times of another type")
    found = Times(*said)
    ready_ns = found.submitted_ns or found.began_ns
    if not (
        given_ns <= found.began_ns <= ready_ns <= found.execute_start_ns
        and found.execute_start_ns <= found.execute_end_ns <= found.ended_ns <= now_ns
    ):
        raise LyingChildError("times that cannot be")
    return found


def row_errors(said: Any, rows: int) -> dict[int, str]:
    """Read the errors of rows."""
    if type(said) is not dict:
        raise LyingChildError("errors of rows that are no map")
    for row, text in said.items():
        if type(row) is not int or type(text) is not str or not 0 <= row < rows:
            raise LyingChildError("an error of a row that is none")
    return said
