"""Functions and classes of each style, as a user would write them."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypedDict

import numpy as np

from batcher.executor import Batch
from batcher.executors.python import Parameter, Row, RowError, Rows, Shared

FOUR = Annotated[np.ndarray, Rows("FP32", 4)]


def doubled(X: FOUR) -> Annotated[np.ndarray, Rows("FP32", 4, name="Y")]:  # noqa: N803
    return 2 * X


async def doubled_later(X: FOUR) -> Annotated[np.ndarray, Rows("FP32", 4, name="Y")]:  # noqa: N803
    await asyncio.sleep(0)
    return 2 * X


class Summary(TypedDict):
    total: Annotated[np.ndarray, Rows("FP64")]
    longest: Annotated[list[str], Rows("BYTES")]


def summarized(numbers: Annotated[np.ndarray, Rows("FP64", "n")], words: list[str]) -> Summary:
    return {"total": numbers.sum(axis=1), "longest": [max(w.split(), key=len) for w in words]}


class Judgement(NamedTuple):
    label: str
    score: Annotated[float, Row("FP32")]


def judged(text: str, amount: float, limit: Annotated[float, Parameter()] = 100.0) -> Judgement:
    if not text:
        raise RowError("text is empty")
    if amount < 0:
        raise ValueError("amount is negative")
    return Judgement("high" if amount > limit else "low", amount / limit)


@dataclass
class Tokens:
    ids: Annotated[np.ndarray, Row("INT64", 6)]
    count: int


async def tokens(text: str, short: Annotated[bool, Parameter()] = False) -> Tokens:
    await asyncio.sleep(0)
    if "\0" in text:
        raise RowError("text has a NUL")
    words = text.split()[: 3 if short else 6]
    ids = np.zeros(6, np.int64)
    ids[: len(words)] = [sum(word.encode()) for word in words]
    return Tokens(ids, len(words))


class Scaler:
    def __init__(self, factor: float = 2.0):
        self.factor = np.float32(factor)
        self.loaded = False

    def load(self, context):
        self.loaded = context.model

    def __call__(self, X: FOUR) -> Annotated[np.ndarray, Rows("FP32", 4, name="Y")]:  # noqa: N803
        assert self.loaded
        return X * self.factor

    def predict(self, X):  # noqa: N803
        return X * self.factor

    def close(self):
        self.loaded = False


class AsyncScaler:
    def __init__(self, factor: float = 2.0):
        self.factor = np.float32(factor)

    async def load(self):
        await asyncio.sleep(0)

    async def __call__(self, X: FOUR) -> Annotated[np.ndarray, Rows("FP32", 4, name="Y")]:  # noqa: N803
        await asyncio.sleep(0)
        return X * self.factor

    async def close(self):
        await asyncio.sleep(0)


def shifted(
    X: FOUR,  # noqa: N803
    bias: Annotated[np.ndarray, Shared("FP32", 4)],
    factor: Annotated[float, Shared("FP32")] = 1.0,
) -> Annotated[np.ndarray, Rows("FP32", 4, name="Y")]:
    return X * np.float32(factor) + bias


def sized(X: FOUR, batch: Batch) -> Annotated[list[int], Rows("INT32", name="SIZE")]:  # noqa: N803
    return [batch.rows] * len(X)
