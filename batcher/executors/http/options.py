"""The options of the executor `http`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from batcher.clock import SECOND
from batcher.config.addresses import parse_address
from batcher.config.section import CrossCheckError, Version
from batcher.executor import Duration, Options, Size
from batcher.executors.remote.channel import TlsOptions
from batcher.executors.remote.headers import ForwardedName, HeaderOptions
from batcher.executors.remote.instances import InstanceForm
from batcher.executors.remote.json_values import BytesStyle
from batcher.executors.remote.tensor_options import TensorOption

__all__ = ["HttpOptions", "Place", "place_of"]

_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<address>[^/?#@\s]+)(?P<path>(?:/[!-~]*)?)")
_ALLOWED: Final = "http://host:port, https://host:port (each with a path or without) or unix:/path"
_OF_HTTP: Final = frozenset(
    {
        "accept-encoding", "expect", "inference-header-content-length", "keep-alive", "proxy-connection",
        "trailer", "upgrade",
    }
)  # fmt: skip
"""Headers that say how a body is sent, besides those that every protocol reserves."""

_PATH: Final = re.compile(r"/[!-~]*")


class Place(NamedTuple):
    """Where requests go."""

    base: str
    """What stands before each path, such as `http://host:port`."""
    unix: str | None
    tls: bool


def place_of(url: str) -> Place:
    """The parts of an option `url`. Raises ValueError, its message being what is allowed."""
    if url.startswith("unix:"):
        parse_address(url)
        return Place("http://localhost", url.removeprefix("unix:"), tls=False)
    match = _URL.fullmatch(url)
    if match is None or "#" in url or "?" in url:
        raise ValueError(_ALLOWED)
    address = match["address"]
    if not re.search(r":\d+$", address):
        address += ":443" if match["scheme"] == "https" else ":80"
    parse_address(address)
    path = match["path"].rstrip("/")
    return Place(f"{match['scheme']}://{address}{path}", None, tls=match["scheme"] == "https")


def _checked_url(url: str) -> str:
    place_of(url)
    return url


def _checked_path(path: str) -> str:
    if not _PATH.fullmatch(path) or "#" in path:
        raise ValueError("a path that begins with /, of printable ASCII characters without spaces")
    return path


Path = Annotated[str, AfterValidator(_checked_path)]


class HttpOptions(Options):
    """Where the neighbor is, which of its models is asked and how, and what is sent along."""

    url: Annotated[str, AfterValidator(_checked_url)]
    """Where the neighbor listens: `http://host:port`, `https://host:port`, each also with a path before
    that of the protocol, or `unix:/path`."""
    protocol: Literal["v1", "v2"] = "v2"
    """The version of the KServe protocol: `v1` has `instances` and `predictions`, `v2` is the Open
    Inference Protocol."""
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The model's name at the neighbor. Default: the name that it has here."""
    version: Version | None = None
    """The model's version at the neighbor (v2). Default: the neighbor chooses."""
    path: Path | None = None
    """Where batches are sent. Default: `/v1/models/NAME:predict` or `/v2/models/NAME/infer`."""
    ready_path: Path | None = None
    """What answers 200 when the model is ready. Default: `/v1/models/NAME` or `/v2/models/NAME/ready`."""
    inputs: tuple[TensorOption, ...] = ()
    """The model's inputs. v1 needs them; a v2 server is asked."""
    outputs: tuple[TensorOption, ...] = ()
    """The model's outputs. v1 needs them; a v2 server is asked."""
    instances: InstanceForm | None = None
    """v1: whether an instance is the input's `value` or an `object` of values by name. Default: the value
    where there is one input."""
    bytes: BytesStyle = "text"
    """How BYTES are written in JSON: as `text`, which must be UTF-8, or as `base64`
    (`{"b64": "..."}`, v1 alone)."""
    binary: Literal["auto", "on", "off"] = "auto"
    """v2: whether tensors are sent as bytes after the JSON. `auto`: if the server says that it can
    (`binary_tensor_data`)."""
    tls: TlsOptions | None = None
    """How to verify an https neighbor. Default: by the authorities of the system."""
    metadata: HeaderOptions = Field(default_factory=dict)
    """Headers of every request: name -> text, or `{file: path, prefix: text}`. A file is read again when
    it changes."""
    forward_metadata: tuple[ForwardedName, ...] = ()
    """The callers' headers that are sent on. Requests share a batch only if they have equal ones, except
    for the trace context. No other header of a caller is sent on."""
    forward_parameters: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """v2: the request parameters that are sent on. Requests share a batch only if they have equal ones."""
    max_answer: Size = 64 * 1024 * 1024
    """The most bytes of an answer. A larger one fails."""
    keep_alive: Duration = 4 * SECOND
    """How long an idle connection is kept. It should be shorter than the neighbor keeps it (uvicorn: 5 s), else
    a batch may meet a connection that is just being closed, and fails."""
    connect_timeout: Duration = 2 * SECOND
    """How long a load waits for the neighbor to answer, each time that it asks. Then the load is
    repeated (`load_retry_timeout`)."""
    health_interval: Duration = SECOND // 2
    """How often the neighbor is asked whether the model is ready."""
    health_timeout: Duration = SECOND
    """How long the neighbor may take for that; then it counts as unhealthy."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        place = place_of(self.url)
        if self.tls is not None and not place.tls:
            problems.append((("tls",), "needs a url that begins with https://"))
        unused = {"v1": ("version", "forward_parameters"), "v2": ("instances",)}[self.protocol]
        problems += [
            ((name,), f"does nothing in protocol {self.protocol}")
            for name in unused
            if getattr(self, name)
        ]
        if self.protocol == "v1" and self.binary != "auto":
            problems.append((("binary",), "does nothing in protocol v1"))
        if self.protocol == "v2" and self.bytes == "base64":
            problems.append((("bytes",), "v2 has no base64; allowed: text (and binary: on)"))
        if self.protocol == "v1":
            problems += [
                ((name,), "is missing; a v1 server does not say what its model takes and gives")
                for name in ("inputs", "outputs")
                if not getattr(self, name)
            ]
        elif bool(self.inputs) != bool(self.outputs):
            problems.append((("inputs",), "and outputs are given both, or none of them"))
        problems += [
            (("metadata", name), "is a header of the protocol itself")
            for name in self.metadata
            if name in _OF_HTTP
        ]
        problems += [
            (
                ("forward_metadata", number),
                f"got {name}; allowed: a text header that is not in metadata",
            )
            for number, name in enumerate(self.forward_metadata)
            if name in self.metadata or name in _OF_HTTP or name.endswith("-bin")
        ]
        CrossCheckError.raise_any(problems)
        return self
