"""A client of the sidecar: one sentence per request, many requests in flight.

Any client of the Open Inference Protocol works; this one uses the message classes of `batcher`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tokens import Encoded

from batcher.protocol import INFERENCE, Stub, inference

Embedding = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of a closed loop, measured in one or several rounds."""

    in_flight: int
    seconds: float
    """From the first request to the last reply, summed over the rounds."""
    latencies_ms: NDArray[np.float64]
    """For each request, from the call to the reply."""

    @classmethod
    def together(cls, rounds: Sequence[Measurement]) -> Measurement:
        """The sum of several rounds with equally many requests in flight."""
        return cls(
            rounds[0].in_flight,
            sum(each.seconds for each in rounds),
            np.concatenate([each.latencies_ms for each in rounds]),
        )

    @property
    def throughput(self) -> float:
        """Replies per second."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency in milliseconds within which `share` percent of the replies arrived."""
        return float(np.percentile(self.latencies_ms, share))


class Client:
    """One channel to the sidecar, as an asynchronous context manager."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub = Stub(self._channel, INFERENCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def embed(
        self,
        model: str,
        sentences: Sequence[Encoded],
        in_flight: int,
        on_answer: Callable[[], None],
    ) -> Embedding:
        """The embeddings of all sentences, `[sentences, 384]`, in their order.

        Sends one request a sentence, keeps `in_flight` of them unanswered, and calls `on_answer`
        after each. Raises grpc.aio.AioRpcError at the first that fails.
        """
        rows: list[Embedding | None] = [None] * len(sentences)
        waiting = iter(range(len(sentences)))

        async def caller() -> None:
            for place in waiting:
                rows[place] = _embedding(await self._infer(request_for(model, sentences[place])))
                on_answer()

        await _all(caller, min(in_flight, len(sentences)))
        return np.stack([row for row in rows if row is not None])

    async def measure(
        self,
        requests: Iterator[Any],
        in_flight: int,
        seconds: float,
        on_answer: Callable[[], None],
    ) -> Measurement:
        """A closed loop: each of `in_flight` callers sends its next sentence when it has an answer.

        `requests` never ends (see `request_for`). After `seconds` nothing more is taken from it,
        and what is in flight is awaited and counted. Raises grpc.aio.AioRpcError at the first that
        fails.
        """
        latencies: list[float] = []
        start = time.perf_counter()

        async def caller() -> None:
            sent = time.perf_counter()
            while sent < start + seconds:
                await self._infer(next(requests))
                answered = time.perf_counter()
                latencies.append((answered - sent) * 1e3)
                on_answer()
                sent = answered

        await _all(caller, in_flight)
        return Measurement(in_flight, time.perf_counter() - start, np.array(latencies))

    async def arrive(
        self, requests: Iterator[Any], rate: float, seconds: float, on_answer: Callable[[], None]
    ) -> None:
        """An open loop: `rate` requests a second at random moments, whether or not answers come.

        Awaits what is in flight after `seconds`. Raises grpc.aio.AioRpcError at the first that
        fails.
        """
        draw = np.random.default_rng(0)
        loop = asyncio.get_running_loop()
        start = at = loop.time()

        async def ask() -> None:
            await self._infer(next(requests))
            on_answer()

        try:
            async with asyncio.TaskGroup() as group:
                while (at := at + float(draw.exponential(1 / rate))) < start + seconds:
                    await asyncio.sleep(at - loop.time())
                    group.create_task(ask())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def batches(self, model: str) -> Counter[int]:
        """Sentences in a batch -> how many such batches the server has executed so far."""
        request = inference.ModelStatisticsRequest(name=model)
        answer = await self._stub.ModelStatistics(request)
        return Counter(
            {
                batch.batch_size: batch.compute_infer.count
                for batch in answer.model_stats[0].batch_stats
            }
        )

    async def _infer(self, request: Any) -> Any:
        return await self._stub.ModelInfer(request)


async def _all(caller: Callable[[], Any], count: int) -> None:
    """Run `count` callers; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(caller())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def request_for(model: str, sentence: Encoded) -> Any:
    """The `ModelInferRequest` that asks for one sentence's embedding."""
    request = inference.ModelInferRequest(model_name=model)
    for name, array in (
        ("input_ids", sentence.input_ids),
        ("attention_mask", sentence.attention_mask),
    ):
        request.inputs.add(name=name, datatype="INT64", shape=array.shape)
        request.raw_input_contents.append(array.astype("<i8").tobytes())
    return request


def _embedding(answer: Any) -> Embedding:
    return np.frombuffer(answer.raw_output_contents[0], dtype="<f4")
