"""The options of the executor `torchserve`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from batcher.clock import MILLISECOND, SECOND
from batcher.config.addresses import Address
from batcher.config.section import CrossCheckError
from batcher.executor import Duration, FilePath, Options, Size
from batcher.executors.remote.channel import LARGEST_MESSAGE, TlsOptions
from batcher.executors.remote.headers import HeaderOptions
from batcher.executors.remote.instances import InstanceForm
from batcher.executors.remote.json_values import BytesStyle
from batcher.executors.remote.tensor_options import TensorOption

__all__ = ["TorchserveOptions"]

_ENCODINGS = {"batch": ("safetensors", "json"), "rows": ("raw", "json")}
"""How batches are sent -> their encodings, the default first."""


class TorchserveOptions(Options):
    """Where TorchServe is, which of its models is asked and how, and what it takes and gives."""

    url: Address
    """Where it listens for inference over gRPC (7070 by default): `host:port` or `unix:/path`."""
    management_url: Address | None = None
    """Where it listens for management over gRPC (7071 by default). With it the model's workers are watched, and
    its batch size is checked; without it, only what TorchServe says of all its models."""
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The model's name at TorchServe. Default: the name that it has here."""
    version: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The model's version at TorchServe, such as `"1.0"`. Default: TorchServe's default version."""
    inputs: tuple[TensorOption, ...]
    """The model's inputs, which TorchServe does not know."""
    outputs: tuple[TensorOption, ...]
    """The model's outputs, which TorchServe does not know."""
    send: Literal["batch", "rows"] = "batch"
    """`batch`: a batch is one call, and TorchServe's own batching is off. `rows`: each row is a call, for
    handlers that take one row a call, and TorchServe puts them together again."""
    encoding: Literal["safetensors", "json", "raw"] | None = None
    """What a call holds: a `batch` as `safetensors` (default) or `json`, rows as `raw` (default) or `json`."""
    instances: InstanceForm | None = None
    """`send: batch` with JSON: whether an instance is the input's `value` or an `object` of values by name.
    Default: the value where there is one input."""
    bytes: BytesStyle = "text"
    """How BYTES are written in JSON: as `text`, which must be UTF-8, or as `base64` (`{"b64": "..."}`)."""
    forward_parameters: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """The request parameters that a call holds, too, as text. Requests share a batch only if they have
    equal ones."""
    tokens: FilePath | None = None
    """TorchServe's `key_file.json`. It is read again when it changes."""
    metadata: HeaderOptions = Field(default_factory=dict)
    """Headers of every call: name -> text, or `{file: path, prefix: text}`. A file is read again when it
    changes."""
    tls: TlsOptions | None = None
    """TLS to TorchServe; `{}` trusts the authorities of the system. Default: none."""
    archive: Annotated[str, Field(min_length=1)] | None = None
    """The model archive that is registered if TorchServe does not have the model: a file of its model store,
    or a URL that it may fetch. It needs `management_url`, and `enable_model_api` of TorchServe."""
    workers: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None
    """The workers that TorchServe is told to run for the model. Default: as it does."""
    max_batch_delay: Duration = MILLISECOND
    """`send: rows` with `archive`: how long TorchServe may wait for the rows of a batch, in whole
    milliseconds."""
    max_message: Size = LARGEST_MESSAGE
    """The largest call and the largest answer. TorchServe takes 6,553,500 bytes unless its `max_request_size`
    says otherwise. A larger batch is divided, a larger answer fails."""
    connect_timeout: Duration = 2 * SECOND
    """How long a load waits for TorchServe to answer, each time that it asks. Then the load is repeated
    (`load_retry_timeout`)."""
    health_interval: Duration = SECOND // 2
    """How often TorchServe is asked whether the model is ready."""
    health_timeout: Duration = SECOND
    """How long it may take for that; then it counts as unhealthy."""

    @property
    def coded(self) -> str:
        """The encoding in force."""
        return self.encoding or _ENCODINGS[self.send][0]

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        if self.coded not in _ENCODINGS[self.send]:
            allowed = " or ".join(_ENCODINGS[self.send])
            problems.append(
                (("encoding",), f"got {self.coded}; allowed with send: {self.send}: {allowed}")
            )
        if self.instances is not None and (self.send, self.coded) != ("batch", "json"):
            problems.append((("instances",), "does nothing without send: batch and encoding: json"))
        if self.bytes == "base64" and self.coded != "json":
            problems.append((("bytes",), "does nothing without encoding: json"))
        if self.tokens is not None and "authorization" in self.metadata:
            problems.append(
                (("metadata", "authorization"), "is what tokens set; allowed: one of them")
            )
        if self.management_url is None:
            problems += [
                ((name,), "needs management_url")
                for name in ("archive", "workers")
                if getattr(self, name) is not None
            ]
        if self.send == "batch" and "max_batch_delay" in self.model_fields_set:
            problems.append((("max_batch_delay",), "does nothing without send: rows"))
        if self.max_batch_delay % MILLISECOND:
            problems.append((("max_batch_delay",), "allowed: whole milliseconds"))
        if self.max_message > LARGEST_MESSAGE:
            problems.append((("max_message",), f"at most {LARGEST_MESSAGE} bytes, as gRPC allows"))
        problems += self._of_tensors()
        CrossCheckError.raise_any(problems)
        return self

    def _of_tensors(self) -> list[tuple[tuple[str | int, ...], str]]:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        for kind in ("inputs", "outputs"):
            tensors: tuple[TensorOption, ...] = getattr(self, kind)
            if not tensors:
                problems.append(((kind,), "got none; TorchServe does not know them: declare each"))
            if self.coded == "safetensors":
                problems += [
                    (
                        (kind, place, "datatype"),
                        "safetensors has no BYTES; allowed: encoding: json, or send: rows",
                    )
                    for place, each in enumerate(tensors)
                    if each.datatype == "BYTES"
                ]
        if self.coded == "raw" and len(self.outputs) > 1:
            problems.append((("outputs",), "encoding: raw has one; allowed: encoding: json"))
        names = {each.name for each in self.inputs} if self.send == "rows" else {"data"}
        problems += [
            (("forward_parameters", place), f"got {name}, which is the name of the call's data")
            for place, name in enumerate(self.forward_parameters)
            if name in names
        ]
        return problems
