"""Messages of the Open Inference Protocol <-> our own types: pure functions, without gRPC and asyncio.

    bytes --parse--> WireRequest --to_request--> InferenceRequest
    InferenceReply --response_parts--> parts of bytes

`wire` reads the outermost fields without copying tensors, `requests` and `parameters` check what is
nested, `protocol.elements` turns contents into arrays and back, `responses` and `classification` make answers,
`describe` the messages about models. Every limit on what a caller can make this cost is a constant
here, and docs/limits.md lists them.
"""

from batcher.server.messages.classification import Classes
from batcher.server.messages.requests import to_request
from batcher.server.messages.responses import (
    STREAM_WRAPPING,
    joined,
    response_parts,
    stream_error,
    stream_parts,
    takes_long,
)
from batcher.server.messages.wire import LARGE_MESSAGE, WireRequest, parse

__all__ = [
    "LARGE_MESSAGE",
    "STREAM_WRAPPING",
    "Classes",
    "WireRequest",
    "joined",
    "parse",
    "response_parts",
    "stream_error",
    "stream_parts",
    "takes_long",
    "to_request",
]
