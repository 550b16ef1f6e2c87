"""Batches as the child gets them, and what it answers: results, failures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic_ns
from typing import Any, Final

import msgpack
import numpy as np

from batcher.errors import (
    BackendUnavailable,
    ModelLoadError,
    OutOfMemory,
    describe,
    encodable,
    on_one_line,
)
from batcher.executor import (
    CAUSES,
    DTYPES,
    MAX_RETRY_AFTER_NS,
    Array,
    Batch,
    BatchResult,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    SequenceRow,
)
from batcher.executors.isolated.arena import Mapped
from batcher.executors.isolated.frames import frame
from batcher.executors.isolated.messages import FAILED, LOADED, NOT_LOADED
from batcher.executors.isolated.tensors import CODES, Items, prepared, received
from batcher.executors.isolated.values import checked, plain

log = logging.getLogger("batcher.isolated")

_ROW_ERRORS: Final = 4 * 1024 * 1024
"""Characters of all errors of a batch's rows; more are shortened, so that a message can hold them."""


def batch_of(message: list[Any], mapped: Mapped) -> Batch:
    """The batch that a RUN message describes."""
    _, _, rows, tensors, outputs, deadline_ns, parameters, metadata, sequences, *_ = message
    everywhere = 0, mapped.nbytes
    return Batch(
        dict([received(each, mapped, everywhere) for each in tensors]),
        rows,
        parameters,
        None if outputs is None else frozenset(outputs),
        deadline_ns,
        metadata,
        sequences=tuple([SequenceRow(*each) for each in sequences]),
    )


def outputs_of(
    result: object, batch: Batch, metadata: ModelMetadata
) -> tuple[BatchResult, Items, int]:
    """A result, what is to be sent of it, and its bytes in the arena (`prepared`).

    Raises `ExecutionError` for what cannot be sent; whether it is right the server checks.
    """
    if not isinstance(result, BatchResult):
        kind = type(result).__name__
        raise ExecutionError(f"the executor returned {kind}, not a BatchResult")
    found: dict[str, Array] = {}
    for spec in metadata.outputs:
        name = spec.name
        if batch.outputs is not None and name not in batch.outputs:
            continue
        array: object = result.outputs.get(name)
        if array is None:
            continue
        if not isinstance(array, np.ndarray):
            kind = type(array).__name__
            raise _wrong(name, f"it is of type {kind}, not a numpy array")
        if array.dtype not in CODES:
            raise _wrong(name, f"its dtype is {array.dtype}, not {DTYPES[spec.datatype]}")
        found[name] = array
    return (result, *prepared(found))


def _wrong(name: str, fault: str) -> ExecutionError:
    return ExecutionError(f"the executor returned a wrong output {name!r}: {fault}")


def in_arena(offset: int, nbytes: int) -> int:
    """The offset that the server gave for outputs. Raises `ExecutionError` where it had no room."""
    if offset < 0:
        raise ExecutionError(
            f"its outputs of {nbytes} bytes find no room in the memory that the child process shares",
            cause="memory",
        )
    return offset


def errors_of_rows(result: BatchResult) -> dict[int, str]:
    """The errors of its rows, as texts that a message can hold."""
    if not result.row_errors:
        return {}
    most = max(1, _ROW_ERRORS // len(result.row_errors))
    return {int(row): encodable(str(text)[:most]) for row, text in result.row_errors.items()}


def failed(batch_id: int, times: list[int], error: BaseException) -> list[Any]:
    """The message for a batch that raised; `times` are those of a result, but for the last."""
    log.debug("a batch failed", exc_info=error)
    cause, text, retry_after_ns = "unknown", "", None
    if isinstance(error, ExecutionError):
        cause, text, retry_after_ns = _said(error)
    elif isinstance(error, MemoryError | OutOfMemory):
        cause = "memory"
    error.__traceback__ = None  # its frames refer to the batch, and an executor may keep its error
    return [
        FAILED,
        batch_id,
        [*times, monotonic_ns()],
        cause,
        text or describe(error),
        retry_after_ns,
    ]


def _said(error: ExecutionError) -> tuple[str, str, int | None]:
    """What an `ExecutionError` says; a plugin's subclass may have none of its attributes."""
    cause = getattr(error, "cause", None)
    if cause not in CAUSES:
        cause = "unknown"
    retry_after_ns = getattr(error, "retry_after_ns", None)
    if isinstance(retry_after_ns, int):
        retry_after_ns = max(0, min(retry_after_ns, MAX_RETRY_AFTER_NS))
    else:
        retry_after_ns = None
    try:
        text = on_one_line(str(error))
    except Exception:  # noqa: BLE001 - a plugin's own `__str__`
        text = ""
    return cause, text, retry_after_ns


def loaded(metadata: object, *, pipelined: bool = False) -> list[Any]:
    """The message for a model that is loaded. Raises `TypeError` or `ValueError` for wrong metadata."""
    if not isinstance(metadata, ModelMetadata):
        raise TypeError(f"load must return ModelMetadata, not {type(metadata).__name__}")
    said = msgpack.unpackb(msgpack.packb(plain(metadata), default=_number))
    checked(said, ModelMetadata)
    message = [LOADED, said, pipelined]
    frame(message)
    return message


def _number(value: object) -> object:
    """A number of numpy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"metadata with a value of type {type(value).__name__}")


def not_loaded(context: LoadContext, error: BaseException) -> list[Any]:
    """The message for a model that could not be loaded."""
    log.debug("the load failed", exc_info=error)
    if isinstance(error, ModelLoadError):
        kinds: Mapping[str, type] = {
            "OutOfMemory": OutOfMemory,
            "BackendUnavailable": BackendUnavailable,
        }
        name = next((n for n, kind in kinds.items() if isinstance(error, kind)), "ModelLoadError")
        return [NOT_LOADED, name, encodable(str(error)[:MAX_ERROR])]
    text = f"model {context.model!r}: the executor could not load: {describe(error)}"
    return [NOT_LOADED, "ModelLoadError", text]


MAX_ERROR: Final = 60_000
"""Characters of an error of `load`: it may name every wrong option."""


def reason(outcome: object) -> str:
    """Why an executor is unhealthy, from what its `healthy` returned; empty if healthy."""
    if outcome is None:
        return ""
    if isinstance(outcome, str):
        return on_one_line(outcome)
    return f"healthy() returned {on_one_line(repr(outcome))}, not a text or None"


def released(result: BatchResult) -> None:
    """Give the executor its memory back."""
    try:
        result.release()
    except BaseException:
        log.exception("an executor's release() raised: a mistake of its plugin")
