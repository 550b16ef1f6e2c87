"""The options of the executor `kserve`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from batcher.clock import SECOND
from batcher.config.addresses import Address
from batcher.config.section import CrossCheckError, KeyPath, Version
from batcher.executor import Duration, FilePath, Options, Size
from batcher.executors.remote.channel import LARGEST_MESSAGE, TlsOptions
from batcher.executors.remote.headers import ForwardedName, HeaderOptions


class KserveOptions(Options):
    """Where the neighbor is, which of its models is asked, and what is sent along."""

    url: Address
    """Where the neighbor listens for gRPC: `host:port`, `[v6]:port` or `unix:/path`."""
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The model's name at the neighbor. Default: the name that it has here."""
    version: Version | None = None
    """The model's version at the neighbor. Default: the neighbor chooses."""
    config: FilePath | None = None
    """A `config.pbtxt` that counts instead of what the neighbor answers to ModelConfig. For neighbors
    that do not answer it, or do not say what their inputs and outputs are."""
    tls: TlsOptions | None = None
    """TLS to the neighbor; `{}` trusts the authorities of the system. Default: none."""
    metadata: HeaderOptions = Field(default_factory=dict)
    """Headers of every call: name -> text, or `{file: path, prefix: text}`. A file is read again when
    it changes."""
    forward_metadata: tuple[ForwardedName, ...] = ()
    """The callers' headers that are sent on. Requests share a batch only if they have equal ones, except
    for the trace context. No other header of a caller is sent on."""
    forward_parameters: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """The request parameters that are sent on. Requests share a batch only if they have equal ones."""
    shared_memory: Literal["auto", "off"] = "auto"
    """Whether large tensors go through system shared memory where the neighbor is on this host and can
    (`auto`), or never do (`off`)."""
    max_message: Size = LARGEST_MESSAGE
    """The largest message in either direction, a batch or its answer. A larger batch is divided, a
    larger answer fails."""
    connect_timeout: Duration = 2 * SECOND
    """How long a load waits for the neighbor to answer, each time that it asks. Then the load is
    repeated (`load_retry_timeout`)."""
    health_interval: Duration = SECOND // 2
    """How often the neighbor is asked whether the model is ready."""
    health_timeout: Duration = SECOND
    """How long the neighbor may take for that; then it counts as unhealthy."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems: list[tuple[KeyPath, str]] = [
            (("forward_metadata", place), f"got {name}, which metadata sets; allowed: one of them")
            for place, name in enumerate(self.forward_metadata)
            if name in self.metadata
        ]
        if self.max_message > LARGEST_MESSAGE:
            problems.append((("max_message",), f"at most {LARGEST_MESSAGE} bytes, as gRPC allows"))
        CrossCheckError.raise_any(problems)
        return self
