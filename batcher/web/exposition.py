"""The text of `/metrics`, rendered without holding up the event loop.

Fifty models have 20,000 samples, which would hold the loop for tens of milliseconds at every scrape, longer than some
latency targets: they are written in slices of a quarter of a millisecond.
Only one text is rendered at a time, however many scrapers there are and however often they ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from copy import copy
from time import perf_counter
from typing import Final, TypeAlias

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from batcher.telemetry.export import WrittenFamily

log = logging.getLogger(__name__)

SLICE_CHARACTERS: Final = 8192
"""Text between two looks at the clock: about a hundred lines, which take some 50 µs."""

SLICE_SAMPLES: Final = 64
"""The same of families that the library writes, where each takes tens of microseconds."""

SLICE_S: Final = 0.00025
"""Time for which the event loop is held at least, and hardly longer: half of it costs twice the iterations."""

IDLE_RATIO: Final = 4
"""After a text, nothing is rendered for this many times as long as it took: scrapes take a fifth of the
event loop's time at most. A scraper that comes every few seconds does not notice."""

Encoder: TypeAlias = Callable[[Collector], bytes]

_END = b"# EOF\n"
_OPENMETRICS: Final = "application/openmetrics-text"


class _SingleFamily(Collector):
    """A registry of one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class Exposition:
    """The text of a registry for many requests at once: all that wait share the next one.

    A text is never older than the request for it: one that is being rendered when a request arrives
    goes to the requests before it.
    """

    def __init__(self, registry: Collector) -> None:
        self._registry = registry
        self._wanted: dict[str, tuple[Encoder, asyncio.Future[bytes]]] = {}
        """What is to be rendered next, by content type."""
        self._rendering: asyncio.Task[None] | None = None
        self.waiting = 0
        """Requests that wait for their text."""

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The text, and its content type; `accept` is the header of the request. See `render`."""
        encode, content_type = _encoder(accept)
        if content_type not in self._wanted:
            future = asyncio.get_running_loop().create_future()
            self._wanted[content_type] = encode, future
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._render(), name="exposition")
        self.waiting += 1
        try:
            return await asyncio.shield(self._wanted[content_type][1]), content_type
        finally:
            self.waiting -= 1

    async def _render(self) -> None:
        while self._wanted:
            content_type = next(iter(self._wanted))
            encode, future = self._wanted.pop(content_type)
            took_s = 0.0
            try:
                body, took_s = await _rendered(self._registry, encode, content_type)
                future.set_result(body)
            except Exception as error:  # noqa: BLE001 - the callers are told, and the next may succeed
                future.set_exception(error)
            await asyncio.sleep(IDLE_RATIO * took_s)
        self._rendering = None


async def render(registry: Collector, accept: str) -> tuple[bytes, str]:
    """The text with every sample of the registry, and its content type.

    The format is OpenMetrics where the header `Accept` names it, else the Prometheus text format; an
    invalid header is no error. The samples of one family were taken at the same time.
    """
    encode, content_type = _encoder(accept)
    return (await _rendered(registry, encode, content_type))[0], content_type


def _encoder(accept: str) -> tuple[Encoder, str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return choose_encoder("")


async def _rendered(registry: Collector, encode: Encoder, content_type: str) -> tuple[bytes, float]:
    """The text, and the seconds of the event loop that it took."""
    body: list[bytes] = []
    took_s, began_s = 0.0, perf_counter()
    openmetrics = content_type.startswith(_OPENMETRICS)
    for part in _parts(registry, encode, openmetrics=openmetrics):
        body.append(part)
        spent_s = perf_counter() - began_s
        if spent_s >= SLICE_S:
            took_s += spent_s
            await asyncio.sleep(0)
            began_s = perf_counter()
    took_s += perf_counter() - began_s
    if openmetrics:
        body.append(_END)
    return b"".join(body), took_s


def pieces(registry: Collector, accept: str) -> Iterator[bytes]:
    """The text in pieces, after each of which the event loop may run; together what `render` returns."""
    encode, content_type = _encoder(accept)
    openmetrics = content_type.startswith(_OPENMETRICS)
    yield from _parts(registry, encode, openmetrics=openmetrics)
    if openmetrics:
        yield _END


def _parts(registry: Collector, encode: Encoder, *, openmetrics: bool) -> Iterator[bytes]:
    """The text in pieces that take much less than `SLICE_S`."""
    for metric in registry.collect():
        try:
            if isinstance(metric, WrittenFamily):
                yield from _pieces(metric.text(openmetrics=openmetrics))
                continue
            for number, part in enumerate(_slices(metric)):
                text = encode(_SingleFamily(part)).removesuffix(_END)
                yield _without_header(text) if number else text
        except Exception:
            log.exception("internal error: the metric %s cannot be written", metric.name)


def _pieces(lines: Iterator[str]) -> Iterator[bytes]:
    """The text in pieces of `SLICE_CHARACTERS`, at first an empty one: what it is of has been counted then."""
    piece = ""
    yield b""
    for line in lines:
        piece += line
        if len(piece) >= SLICE_CHARACTERS:
            yield _encoded(piece)
            piece = ""
    yield _encoded(piece)


def _encoded(text: str) -> bytes:
    """The text as UTF-8, in which what it has no bytes for is a question mark: it must not cost a family."""
    return text.encode(errors="replace")


def _slices(metric: Metric) -> Iterator[Metric]:
    """A family that the library writes, in slices of `SLICE_SAMPLES` samples, in order; at least one."""
    samples = metric.samples
    # The text format moves creation times behind the other samples, with a header of their own.
    whole = len(samples) <= SLICE_SAMPLES or any(
        sample.name.endswith("_created") for sample in samples
    )
    if whole:
        yield metric
        return
    for start in range(0, len(samples), SLICE_SAMPLES):
        piece = copy(metric)
        piece.samples = samples[start : start + SLICE_SAMPLES]
        yield piece


def _without_header(text: bytes) -> bytes:
    """The text without its leading comment lines."""
    while text.startswith(b"#"):
        text = text[text.index(b"\n") + 1 :]
    return text
