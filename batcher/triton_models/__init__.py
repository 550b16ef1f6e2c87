"""Models as Triton describes them: its `config.pbtxt`, read and checked.

`reading` makes a message of the text, or of the JSON of a load call, and knows the line of each field;
`model` makes checked values of the message, for an executor in front of a Triton or for `mapping`, which
makes a section `models[]` of them: `backends` says which executor runs a model, and `unused` what has no
effect here.
"""

from batcher.triton_models.mapping import MappedModel, ModelFiles, mapped
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
    "MappedModel",
    "ModelFiles",
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
    "mapped",
    "model_of",
    "parse_json",
    "parse_text",
    "read_config",
]
