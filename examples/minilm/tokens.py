"""Sentences to padded token ids, the way all-MiniLM-L6-v2 was trained to read them.

The server batches only requests of equal shape, so the client pads: every sentence to the next of a
few lengths. The mask tells the model which tokens are padding, and the embedding does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import weights
from numpy.typing import NDArray
from tokenizers import Tokenizer

LENGTHS = (16, 24, 32, 48, 64, 96, 128)
"""The lengths that sentences are padded to, in tokens. Fewer lengths make larger batches, more
lengths less padding. A sentence longer than the last is cut there."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sentence as the model takes it: `input_ids` and `attention_mask`, int64 `[1, length]`."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]

    @property
    def length(self) -> int:
        """The padded length."""
        return int(self.input_ids.shape[1])

    @property
    def tokens(self) -> int:
        """How many of them are not padding."""
        return int(self.attention_mask.sum())


def encode(sentences: Iterable[str]) -> list[Encoded]:
    """Each sentence, padded to one of `LENGTHS`. Raises WeightsMissingError."""
    return [pad(ids) for ids in token_ids(sentences)]


def token_ids(sentences: Iterable[str]) -> list[list[int]]:
    """Each sentence's tokens without padding, at most as many as the last of `LENGTHS`."""
    tokenizer = Tokenizer.from_file(str(weights.folder() / "tokenizer.json"))
    # The file asks for 128 tokens whatever the sentence, which would be mostly padding.
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])
    return [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]


def pad(ids: Sequence[int]) -> Encoded:
    """The tokens with zeros after them, up to the next of `LENGTHS`; at most that many tokens."""
    length = next(length for length in LENGTHS if len(ids) <= length)
    padded = np.zeros((2, 1, length), dtype=np.int64)
    padded[0, 0, : len(ids)] = ids
    padded[1, 0, : len(ids)] = 1
    return Encoded(padded[0], padded[1])
