"""Texts to token ids, in front of a model that takes ids: a class that is set up once for each instance."""

from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np

from batcher.executor import LoadContext
from batcher.executors.python import Rows

UNKNOWN = 1


class Tokens(TypedDict):
    """The outputs: every row is as long as every other, whatever texts share its batch."""

    ids: Annotated[np.ndarray, Rows("INT64", "seq")]
    mask: Annotated[np.ndarray, Rows("INT64", "seq")]


class Tokenizer:
    """Looks words up in a file with one word a line. Line n, from 0, is the id n + 2."""

    def __init__(self, words: str, length: int = 16) -> None:
        self.words, self.length = words, length
        self.ids: dict[str, int] = {}

    def load(self, context: LoadContext) -> None:
        """Read the words; the path starts at the folder of the configuration."""
        path = Path(context.base_dir, self.words)
        lines = path.read_text(encoding="utf-8").split()
        self.ids = {word: place + 2 for place, word in enumerate(lines)}

    def __call__(self, text: list[str]) -> Tokens:
        """Ids and mask `[rows, length]`; 0 fills up."""
        ids = np.zeros((len(text), self.length), np.int64)
        for row, words in enumerate(text):
            found = [self.ids.get(word, UNKNOWN) for word in words.lower().split()]
            ids[row, : len(found)] = found[: self.length]
        return {"ids": ids, "mask": (ids > 0).astype(np.int64)}
