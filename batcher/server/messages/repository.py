"""Reads the messages that load models."""

from __future__ import annotations

from typing import Final

from batcher.errors import NotSupported
from batcher.lifecycle.wanted import LoadParameters
from batcher.protocol import inference

_FILE: Final = "file:"


def load_parameters(request: inference.RepositoryModelLoadRequest) -> LoadParameters:
    """The configuration and the files that a load brings along. Raises `NotSupported`."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if name == "config" and kind == "string_param":
            config = value.string_param
        elif name.startswith(_FILE) and kind == "bytes_param":
            files[name.removeprefix(_FILE)] = value.bytes_param
        else:
            raise NotSupported(
                f"{request.model_name}: parameters of a load: got {name[:100]!r}; allowed: config (text),"
                " file:PATH (bytes)"
            )
    return LoadParameters(config, files)
