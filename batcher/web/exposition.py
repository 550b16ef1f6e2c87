"""The text of `/metrics`, rendered without holding up the event loop.

The client library renders a registry in one go, at several microseconds a sample: with a handful of
models that would stop the loop for ten milliseconds at every scrape, which is a latency target gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import copy

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

SLICE = 64
"""Samples rendered before the loop gets its turn: about half a millisecond."""

_END = b"# EOF\n"


class _One(Collector):
    """A registry of one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


async def render(registry: Collector, accept: str) -> tuple[bytes, str]:
    """Every sample of the registry, and the content type of that text.

    The format is OpenMetrics for a caller that names it in its `Accept` header, else the Prometheus
    text format; a header without sense is no error. The samples of one family are of one moment.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        encode, content_type = choose_encoder("")
    body: list[bytes] = []
    for metric in registry.collect():
        for number, part in enumerate(_slices(metric)):
            text = encode(_One(part)).removesuffix(_END)
            body.append(_without_header(text) if number else text)
            await asyncio.sleep(0)
    if content_type.startswith("application/openmetrics-text"):
        body.append(_END)
    return b"".join(body), content_type


def _slices(metric: Metric) -> Iterator[Metric]:
    """The family in pieces of at most `SLICE` samples, in their order, at least one piece."""
    samples = metric.samples
    # The text format moves creation times behind the other samples, below a header of their own.
    whole = len(samples) <= SLICE or any(sample.name.endswith("_created") for sample in samples)
    if whole:
        yield metric
        return
    for start in range(0, len(samples), SLICE):
        piece = copy(metric)
        piece.samples = samples[start : start + SLICE]
        yield piece


def _without_header(text: bytes) -> bytes:
    """The text without the comment lines that it begins with."""
    while text.startswith(b"#"):
        text = text[text.index(b"\n") + 1 :]
    return text
