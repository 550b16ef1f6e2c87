"""The section `tracing`: which requests are traced, and where their spans are sent."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from batcher.config.explain import explain
from batcher.config.section import CrossCheckError, FilePath, KeyPath, Section, refusal
from batcher.config.units import Duration

Ratio = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]

_HEADER_NAME: Final = re.compile(r"[a-z0-9_.-]{1,128}")
_HEADER_TEXT: Final = re.compile(r"[ -~]*")
_RESERVED: Final = frozenset(
    {"host", "te", "user-agent", "connection", "transfer-encoding", "content-type"}
)
"""Names that the exporter sets by itself."""

_ENDPOINT_ALLOWED: Final = (
    "http://host:port (plain text) or https://host:port (TLS), without a name or password"
)


class HeaderFile(Section):
    """A header's value that is read from a file, and again when the file has changed."""

    file: FilePath
    """The file; white space around its text is left out."""
    prefix: str = ""
    """What stands before the file's text, such as `"Bearer "`."""


class TracingTlsConfig(Section):
    """Certificates for the connection to the collector, PEM files."""

    ca: FilePath | None = None
    """Certificates of the authorities that signed the collector's (PEM); null means those that the
    system trusts."""
    cert: FilePath | None = None
    """The certificate chain that is presented to the collector (PEM); null presents none."""
    key: FilePath | None = None
    """The private key of `cert` (PEM, not encrypted)."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        CrossCheckError.raise_any(
            [
                ((has,), f"no effect without {lacks}; allowed: both or neither")
                for has, lacks in (("cert", "key"), ("key", "cert"))
                if getattr(self, has) is not None and getattr(self, lacks) is None
            ]
        )
        return self


def _checked_endpoint(value: str) -> str:
    try:
        url = urlsplit(value)
        port_is_right = url.port != 0
    except ValueError:
        raise ValueError(_ENDPOINT_ALLOWED) from None
    if url.scheme not in {"http", "https"} or not url.hostname or not port_is_right:
        raise ValueError(_ENDPOINT_ALLOWED)
    if url.query or url.fragment:
        raise ValueError(f"{_ENDPOINT_ALLOWED}, a query or a fragment")
    return value


def _checked_headers(value: object, info: ValidationInfo) -> dict[str, object]:
    """The headers; no message about them shows a value, because it may be a secret."""
    if not isinstance(value, dict):
        raise CrossCheckError([((), "got something else; allowed: a mapping of names to values")])
    problems: list[tuple[KeyPath, str]] = []
    headers: dict[str, object] = {}
    for name, given in value.items():
        problem = _wrong_name(name)
        if problem is not None:
            problems.append(((str(name),), problem))
        elif isinstance(given, dict):
            try:
                headers[name] = HeaderFile.model_validate(given, context=info.context)
            except ValidationError as error:
                problems += (((name, *path), text) for path, text in explain(error, HeaderFile))
        elif isinstance(given, HeaderFile | SecretStr):
            headers[name] = given
        elif isinstance(given, str) and _HEADER_TEXT.fullmatch(given):
            headers[name] = SecretStr(given)
        else:
            problems.append(
                ((name,), "allowed: text of printable ASCII characters, or a mapping with file")
            )
    CrossCheckError.raise_any(problems)
    return headers


def _wrong_name(name: object) -> str | None:
    if (
        isinstance(name, str)
        and _HEADER_NAME.fullmatch(name)
        and name not in _RESERVED
        and not name.startswith(("grpc-", "content-"))
        and not name.endswith("-bin")
    ):
        return None
    return refusal(name, "a header's name in lower case that the protocol itself leaves free")


def _revealed(headers: dict[str, SecretStr | HeaderFile]) -> dict[str, Any]:
    """For comparisons: a changed secret is a change."""
    return {
        name: value.get_secret_value()
        if isinstance(value, SecretStr)
        else value.model_dump(mode="json")
        for name, value in headers.items()
    }


class TracingConfig(Section):
    """Which requests are traced, and where their spans are sent."""

    endpoint: Annotated[str, AfterValidator(_checked_endpoint)] | None = Field(default=None)
    """The collector: `http://host:port` (plain text) or `https://host:port` (TLS). Under `http` the
    path `/v1/traces` is added unless there is one. null means what `OTEL_EXPORTER_OTLP_ENDPOINT` says,
    else this machine: port 4317 (`grpc`) or 4318 (`http`)."""
    protocol: Literal["grpc", "http"] = "grpc"
    """How spans are sent: OTLP over gRPC, or as protobuf over HTTP."""
    sample_ratio: Ratio = 0.01
    """The share of requests that are traced, of those whose caller has not decided it: the sampled
    flag of a `traceparent` is followed."""
    always: tuple[Literal["late", "failed", "refused"], ...] = ()
    """What is kept whatever the caller or `sample_ratio` decided: requests that were answered after
    their target or expired (`late`), failed (`failed`), or were rejected (`refused`)."""
    headers: Annotated[
        dict[str, SecretStr | HeaderFile],
        BeforeValidator(_checked_headers),
        PlainSerializer(_revealed),
        WithJsonSchema(
            {
                "type": "object",
                "additionalProperties": {
                    "anyOf": [{"type": "string"}, HeaderFile.model_json_schema()]
                },
            }
        ),
    ] = Field(default_factory=dict, repr=False)
    """Headers of each export, such as `authorization`: text (`${NAME}` reads the environment), or
    `{file: PATH, prefix: "Bearer "}`, which is read again when it has changed. Values are secrets:
    no log and no message has them."""
    tls: TracingTlsConfig | None = None
    """Certificates for an `https` endpoint; null means the authorities that the system trusts."""
    timeout: Duration | None = None
    """How long one export may take, repeated attempts included; what is not sent then is dropped. null
    means what `OTEL_EXPORTER_OTLP_TIMEOUT` says, else 10s."""
    queue_size: Annotated[int, Field(strict=True, ge=16, le=1_000_000)] = 4096
    """The most traced requests and batches whose spans wait to be sent, about 1 KiB each. What comes
    beyond it is dropped, and its spans counted in `batcher_trace_spans_total`."""
    service_name: str | None = Field(default=None, min_length=1, max_length=256)
    """The resource attribute `service.name`; null means what `OTEL_SERVICE_NAME` says, else
    `batcher`."""
    resource: dict[str, str] = Field(default_factory=dict)
    """More attributes of the resource, such as `deployment.environment.name`. They win over
    `OTEL_RESOURCE_ATTRIBUTES`."""

    @model_validator(mode="before")
    @classmethod
    def _no_password(cls, value: Any) -> Any:
        if isinstance(value, dict) and "@" in str(value.get("endpoint", "")):
            # Before the field is looked at: its messages show what was got.
            text = "has a name or password; allowed: credentials in headers"
            raise CrossCheckError([(("endpoint",), text)])
        return value

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        endpoint = self.endpoint
        if endpoint is not None:
            url = urlsplit(endpoint)
            if self.tls is not None and url.scheme == "http":
                problems.append((("tls",), "no effect: endpoint is http://; allowed: https://"))
            if self.protocol == "grpc" and url.path not in {"", "/"}:
                problems.append((("endpoint",), refusal(endpoint, "no path with protocol grpc")))
        problems += (
            (("always", place), refusal(what, "each once"))
            for place, what in enumerate(self.always)
            if what in self.always[:place]
        )
        problems += (
            (("resource", name), "the resource's name is service_name; allowed: other attributes")
            for name in self.resource
            if name == "service.name"
        )
        CrossCheckError.raise_any(problems)
        return self
