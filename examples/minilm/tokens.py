"""Sentences to token ids, the way all-MiniLM-L6-v2 was trained to read them.

Nothing is padded here: the server does that (`padding` in examples/minilm.yaml), the mask with 0, so
that the model knows which tokens are not the sentence's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import weights
from numpy.typing import NDArray
from tokenizers import Tokenizer

MAX_TOKENS = 128
"""Longer sentences are cut off here, at the largest bucket of the server."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The model's inputs for one sentence: `input_ids` and `attention_mask`, int64 `[1, length]`."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]

    @property
    def length(self) -> int:
        """The number of tokens."""
        return int(self.input_ids.shape[1])


def encode(sentences: Iterable[str]) -> list[Encoded]:
    """The inputs of each sentence, without padding. Raises `WeightsMissingError`."""
    encoded = [np.array([ids], np.int64) for ids in token_ids(sentences)]
    return [Encoded(ids, np.ones_like(ids)) for ids in encoded]


def token_ids(sentences: Iterable[str]) -> list[list[int]]:
    """The token ids of each sentence, at most `MAX_TOKENS`."""
    tokenizer = Tokenizer.from_file(str(weights.folder() / "tokenizer.json"))
    # The tokenizer file asks for 128 tokens per sentence, most of them padding.
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
