"""The messages between the server and a child. Each is a list: its kind, and then what is said here.

Both ends are of one version of batcher, but the code on disk may be replaced while a server runs: the
first message of a child has `VERSION`, and another one is refused.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 2

LOST: Final = 3
"""The exit code of a child whose server is gone."""

# From the server

LOAD: Final = 1
"""executor's path (`module:Class`), log level, batches at once, whether to pipeline, packed `LoadContext`."""
RUN: Final = 2
"""batch id, rows, inputs (`tensors`), outputs or None, deadline or None, parameters, metadata,
sequences, offset and bytes of the arena for outputs, whether it runs alone."""
CANCEL: Final = 3
"""batch id: no request waits for it."""
ROOM: Final = 4
"""batch id, offset and bytes of the arena for its outputs; an offset of -1: there is no room."""
HEALTHY: Final = 5
"""number of the question, nanoseconds that it may take."""
WATCH: Final = 6
"""whether to call the executor's `watch` (True), or to cancel it."""
CLOSE: Final = 7
"""Nothing more: let what runs end, close the executor, and exit."""

# From the child

HELLO: Final = 65
"""`VERSION`, capabilities, whether it is asynchronous, whether it has `healthy`, whether it has `watch`."""
LOADED: Final = 66
"""`ModelMetadata`, whether batches are pipelined."""
NOT_LOADED: Final = 67
"""which error (`LOAD_ERRORS`), its message."""
RESULT: Final = 68
"""batch id, times (`Times`), outputs (`tensors`), errors of rows."""
FAILED: Final = 69
"""batch id, times, cause, message, nanoseconds until callers may come back or None."""
NEEDS_ROOM: Final = 70
"""batch id, bytes of its outputs: they do not fit what RUN gave."""
HEALTH: Final = 71
"""number of the question, why it is unhealthy; empty if it is healthy."""
WATCHED: Final = 72
"""what `watch` reported; empty if all is well."""
WATCH_ENDED: Final = 73
"""what `watch` raised, empty if it has returned."""
SKIPPED: Final = 74
"""batch id: it was cancelled before it began, or while it ran."""
CLOSED: Final = 75
"""what `close` raised, empty if nothing."""

LOAD_ERRORS: Final = ("ModelLoadError", "OutOfMemory", "BackendUnavailable")
"""The errors of `load` that keep their class; others are a ModelLoadError."""

INLINE: Final = 64 * 1024
"""Bytes of a batch's inputs, or of its outputs, up to which they travel in the message."""
