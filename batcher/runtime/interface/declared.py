"""Checks, when a model loads, what its executor declares: by itself, and against the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from batcher.errors import ModelLoadError
from batcher.executor import AsyncExecutor, Capabilities, Executor, LoadContext, ModelMetadata
from batcher.executor.classes import class_problems

RESERVED_PARAMETERS: Final = frozenset(
    {
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
        "triton_enable_empty_final_response",
    }
)
"""Request parameters that the protocol itself uses: they reach no executor."""

MOST_OF_A_NAME: Final = 100
"""Characters that the name of a GPU may have; UUIDs have about 40."""

RESERVED_PREFIX: Final = "triton_"
"""Other request parameters that begin with this are refused."""


def declared_problems(
    metadata: ModelMetadata, context: LoadContext, capabilities: Capabilities
) -> Iterator[str]:
    """What an executor declares and cannot be so, each in a sentence."""
    yield from _axes(metadata, context, capabilities)
    yield from _batch_sizes(metadata.batch_sizes, context.max_batch_size, capabilities)
    yield from _parameters(metadata.parameters)
    yield from _gpu(metadata.gpu)


def _gpu(gpu: object) -> Iterator[str]:
    number = isinstance(gpu, int) and not isinstance(gpu, bool) and gpu >= 0
    text = isinstance(gpu, str) and 0 < len(gpu) <= MOST_OF_A_NAME
    if not (gpu is None or number or text):
        got = repr(gpu)[:MOST_OF_A_NAME]
        yield f"gpu: got {got}; allowed: CUDA's number, a UUID, a PCI bus id, or None"


def _axes(
    metadata: ModelMetadata, context: LoadContext, capabilities: Capabilities
) -> Iterator[str]:
    if capabilities.dynamic_axes:
        return
    declares = "its executor declares Capabilities(dynamic_axes=False)"
    for spec in metadata.inputs:
        if -1 in spec.inner:
            yield f"input {spec.name!r} of shape {list(spec.shape)} has an axis that varies, and {declares}"
    for name, axes in context.buckets.items():
        for axis in axes:
            yield (
                f"padding: got axis {axis} of input {name!r}; allowed: none, as {declares}, so that no"
                " axis varies"
            )


def _batch_sizes(sizes: object, most: int, capabilities: Capabilities) -> Iterator[str]:
    if sizes == ():
        return
    whole = isinstance(sizes, tuple) and all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes
    )
    if not isinstance(sizes, tuple) or not whole or list(sizes) != sorted(set(sizes)):
        yield (
            f"its executor declares batch_sizes {sizes!r}; allowed: a tuple of whole numbers from 1,"
            " ascending, each once"
        )
    elif not most:
        yield (
            f"its executor declares batch_sizes {list(sizes)}, and the model has no batch axis"
            " (batching.max_batch_size is 0); allowed: none"
        )
    elif not capabilities.dynamic_rows and sizes != (most,):
        yield (
            f"its executor declares batch_sizes {list(sizes)} and Capabilities(dynamic_rows=False), which"
            f" means {[most]}; allowed: one of them"
        )


def _parameters(names: object) -> Iterator[str]:
    if not isinstance(names, tuple):
        yield f"parameters: got {names!r}; allowed: a tuple of names"
        return
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name:
            yield f"parameters: got {name!r}; allowed: names of request parameters"
        elif name in names[:place]:
            yield f"parameters: {name!r} is there twice"
        elif name in RESERVED_PARAMETERS or name.startswith(RESERVED_PREFIX):
            yield (
                f"parameters: got {name!r}; allowed: names that the protocol does not use itself"
                f" (those are {', '.join(sorted(RESERVED_PARAMETERS))}, and all that begin with"
                f" {RESERVED_PREFIX})"
            )


def check_executor(
    executor: Executor | AsyncExecutor, model: str, isolation: str, max_in_flight: int
) -> None:
    """Raise `ModelLoadError` for an executor that cannot be what it declares, or run as configured.

    `isolation` and `max_in_flight` are those keys of the model. Call it before the executor is loaded.
    """
    found = class_problems(type(executor), executor.capabilities, isolation, max_in_flight)
    problems = [f"{key}: {text}" for key, text in found]
    if problems:
        raise ModelLoadError(f"model {model!r}: {'; '.join(problems)}")
