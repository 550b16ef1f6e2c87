"""Two models under the same load, one with batching and one without.

They take short turns, so that whatever else the machine does disturbs both alike.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

from client import Client, Measurement, request_for
from report import Row
from tokens import Encoded

MODELS = {"batching": "minilm", "no batching": "minilm-unbatched"}
"""The two models to compare; they differ in the policy alone."""
TURNS = 4
"""The rounds of each model; they alternate."""


async def take_turns(
    client: Client,
    sentences: Sequence[Encoded],
    in_flight: int,
    seconds: float,
    on_answer: Callable[[str], None],
) -> list[Row]:
    """Measure each of `MODELS` for `seconds` in total; `on_answer` is called with the model of each reply.

    Raises grpc.aio.AioRpcError at the first request that fails.
    """
    sides = [_Side(client, name, sentences, in_flight) for name in MODELS]
    for _ in range(TURNS):
        for side in sides:
            await side.take_turn(seconds / TURNS, on_answer)
    return [side.row() for side in sides]


class _Side:
    """The rounds of one model so far."""

    def __init__(
        self, client: Client, name: str, sentences: Sequence[Encoded], in_flight: int
    ) -> None:
        self._client = client
        self._name = name
        self._model = MODELS[name]
        self._in_flight = in_flight
        # One cycle over all turns: a short turn may not get to the end of the sentences.
        self._requests = itertools.cycle([request_for(self._model, each) for each in sentences])
        self._turns: list[Measurement] = []
        self._batches: Counter[int] = Counter()

    async def take_turn(self, seconds: float, on_answer: Callable[[str], None]) -> None:
        before = await self._client.batches(self._model)
        self._turns.append(
            await self._client.measure(
                self._requests, self._in_flight, seconds, lambda: on_answer(self._name)
            )
        )
        self._batches += await self._client.batches(self._model) - before

    def row(self) -> Row:
        return Row(self._name, Measurement.together(self._turns), self._batches)
