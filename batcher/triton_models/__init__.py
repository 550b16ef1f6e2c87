"""Models as Triton describes them: its `config.pbtxt`, read and checked.

`reading` makes a message of the text, or of the JSON of a load call, and knows the line of each field;
`model` makes checked values of the message. Both only read: what becomes of the values is up to their
callers (an executor in front of a Triton, a model repository).
"""

from batcher.triton_models.model import (
    TritonBatching,
    TritonControl,
    TritonInstances,
    TritonModel,
    TritonQueue,
    TritonSequences,
    TritonState,
    TritonTensor,
    VersionPolicy,
    model_of,
)
from batcher.triton_models.reading import TritonConfig, parse_json, parse_text, read_config

__all__ = [
    "TritonBatching",
    "TritonConfig",
    "TritonControl",
    "TritonInstances",
    "TritonModel",
    "TritonQueue",
    "TritonSequences",
    "TritonState",
    "TritonTensor",
    "VersionPolicy",
    "model_of",
    "parse_json",
    "parse_text",
    "read_config",
]
