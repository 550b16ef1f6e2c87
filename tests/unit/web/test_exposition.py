from __future__ import annotations

import asyncio
import itertools

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from batcher.telemetry import Telemetry
from batcher.web import exposition
from batcher.web.exposition import SLICE_CHARACTERS, SLICE_S, SLICE_SAMPLES, Exposition, render


@pytest.fixture
def registry():
    """Families far longer than a slice, and some with creation times."""
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, clock=lambda: 0)
    for number in range(5):
        telemetry.model(str(number), f'model "{number}"\n', "1")
    requests = Counter("requests", "Counted.", ["name"], registry=registry)
    for number in range(SLICE_SAMPLES):
        requests.labels(str(number)).inc()
    Histogram("sizes", "# TYPE of thing.", registry=registry).observe(1)
    return registry


async def test_slices_add_up_to_what_the_library_renders(registry):
    text, content_type = await render(registry, "")
    assert text == generate_latest(registry)
    assert content_type.startswith("text/plain")


async def test_slices_add_up_in_openmetrics_too(registry):
    text, _ = await render(registry, "application/openmetrics-text; version=1.0.0")
    assert text == generate_openmetrics(registry)


async def test_families_without_samples_are_named_all_the_same():
    registry = CollectorRegistry()
    Telemetry(registry, clock=lambda: 0)
    text, _ = await render(registry, "")
    assert text == generate_latest(registry)
    assert b"# TYPE batcher_batch_rows histogram" in text


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_family_of_many_models_is_written_in_pieces(openmetrics):
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, clock=lambda: 0)
    for number in range(50):
        telemetry.model(str(number), str(number), "1")
    for metric in registry.collect():
        for piece in metric.text(openmetrics=openmetrics):
            assert len(piece) < SLICE_CHARACTERS, metric.name


async def test_an_empty_registry_is_a_valid_answer():
    assert (await render(CollectorRegistry(), ""))[0] == b""
    accept = "application/openmetrics-text; version=1.0.0"
    assert (await render(CollectorRegistry(), accept))[0] == b"# EOF\n"


async def test_the_event_loop_runs_while_it_renders(registry, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(exposition, "perf_counter", lambda: next(ticks) * SLICE_S)
    rendering = asyncio.create_task(render(registry, ""))
    iterations = 0
    while not rendering.done():
        await asyncio.sleep(0)
        iterations += 1
    text = await rendering
    assert iterations > len(text[0]) / SLICE_CHARACTERS
    assert iterations > len(list(registry.collect()))


class Counted:
    """A registry that knows how often it was asked, and how often at once."""

    def __init__(self, registry):
        self.registry = registry
        self.asked = self.running = self.most = 0
        self.begun = asyncio.Event()

    def collect(self):
        self.asked += 1
        self.begun.set()
        self.running += 1
        self.most = max(self.most, self.running)
        yield from self.registry.collect()
        self.running -= 1


async def test_requests_that_wait_share_the_next_text(registry):
    counted = Counted(registry)
    exposition = Exposition(counted)
    texts = await asyncio.gather(*(exposition.text("") for _ in range(60)))
    assert len({text for text, _ in texts}) == 1
    assert counted.asked == 1
    assert exposition.waiting == 0


async def test_a_text_is_not_older_than_its_request(registry):
    counted = Counted(registry)
    exposition = Exposition(counted)
    first = asyncio.create_task(exposition.text(""))
    await counted.begun.wait()
    second = asyncio.create_task(exposition.text(""))
    other = asyncio.create_task(exposition.text("application/openmetrics-text; version=1.0.0"))
    await asyncio.gather(first, second, other)
    assert counted.asked == 3
    assert counted.most == 1, "one is rendered at a time"
    assert (await other)[0].endswith(b"# EOF\n")


async def test_a_cancelled_request_does_not_affect_others(registry):
    exposition = Exposition(registry)
    leaving, staying = (asyncio.create_task(exposition.text("")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying)[0] == generate_latest(registry)
    assert exposition.waiting == 0


async def test_a_text_that_fails_fails_only_the_requests_for_it(registry):
    class Broken:
        def collect(self):
            raise ValueError("no")

    exposition = Exposition(Broken())
    with pytest.raises(ValueError, match="no"):
        await exposition.text("")
    exposition._registry = registry
    assert (await exposition.text(""))[0] == generate_latest(registry)


async def test_what_utf_8_has_no_bytes_for_costs_no_family():
    registry = CollectorRegistry()
    Telemetry(registry, clock=lambda: 0).model("a", "a\udcff", "1")
    text, _ = await render(registry, "")
    assert b'batcher_latency_target_missed_total{model="a?",version="1"}' in text
