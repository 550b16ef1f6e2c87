"""Metadata of callers that an executor sends on: which names may be, and what of a request is.

Only what the model's `ModelMetadata.metadata` names is sent on. Nothing else of a caller's metadata
leaves the server.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

from batcher.errors import InvalidRequest
from batcher.executor import TRACE_METADATA, MetadataValue

CallerMetadata: TypeAlias = Sequence[tuple[str, MetadataValue]]
"""All metadata of a call, as the transport gives it: names in lower case, some of them several times."""

MAX_FORWARDED: Final = 8 * 1024
"""The most bytes of one request's metadata that are sent on, names and values together: servers that use
gRPC's own libraries begin to refuse calls with more."""

_NAME: Final = re.compile(r"[0-9a-z_.-]+")

_TAKEN: Final = frozenset({"content-type", "content-length", "host", "te", "user-agent"})
"""Names that the client of the other server sets by itself."""

_KEY: Final = secrets.token_bytes(32)
"""The key of this process for digests of values, so that none can be guessed from an event log."""


def wrong_names(names: object) -> Iterator[str]:
    """What is wrong with the names that an executor declares, each in a sentence."""
    if not isinstance(names, tuple):
        yield f"metadata: got {names!r}; allowed: a tuple of names"
        return
    for place, name in enumerate(names):
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            yield f"metadata: got {name!r}; allowed: names of metadata, in lower case"
        elif name in names[:place]:
            yield f"metadata: {name!r} is there twice"
        elif name in _TAKEN or (name.startswith("grpc-") and name not in TRACE_METADATA):
            yield f"metadata: got {name!r}; allowed: names that gRPC and HTTP do not use themselves"


def forwarded(
    names: Sequence[str], metadata: CallerMetadata, model: str = ""
) -> dict[str, MetadataValue]:
    """The values of these names in a caller's metadata; names that it lacks are absent.

    Several texts of one name are joined by commas, as gRPC defines. Raises `InvalidRequest` for
    several binary values of one name, and for more than `MAX_FORWARDED` bytes.
    """
    found: dict[str, MetadataValue] = {}
    nbytes = 0
    for name, value in metadata:
        if name not in names:
            continue
        nbytes += len(name) + len(value)
        before = found.get(name)
        if before is None:
            found[name] = value
        elif isinstance(before, str) and isinstance(value, str):
            found[name] = f"{before},{value}"
        else:
            raise InvalidRequest(f"{model}: metadata {name} may have one value, got several")
    if nbytes > MAX_FORWARDED:
        raise InvalidRequest(
            f"{model}: metadata {', '.join(found)}: {nbytes} bytes are to be sent on; allowed: at"
            f" most {MAX_FORWARDED} together (fixed limit)"
        )
    return found


def forwarded_key(values: Mapping[str, MetadataValue]) -> str:
    """Equal for requests that may share a batch as to these values; "" without any.

    A digest, because batch keys are written to event logs and values may be secret.
    """
    apart = sorted((name, value) for name, value in values.items() if name not in TRACE_METADATA)
    if not apart:
        return ""
    return blake2b(repr(apart).encode(), digest_size=16, key=_KEY).hexdigest()
