from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from batcher.telemetry import Telemetry
from batcher.web.exposition import SLICE, render


@pytest.fixture
def registry():
    """Families far longer than a slice, and some with creation times."""
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, clock=lambda: 0)
    for number in range(5):
        telemetry.model(str(number), f'model "{number}"\n', "1")
    requests = Counter("requests", "Counted.", ["name"], registry=registry)
    for number in range(SLICE):
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


async def test_an_empty_registry_is_a_valid_answer():
    assert (await render(CollectorRegistry(), ""))[0] == b""
    accept = "application/openmetrics-text; version=1.0.0"
    assert (await render(CollectorRegistry(), accept))[0] == b"# EOF\n"


async def test_others_get_their_turn_while_it_renders(registry):
    rendering = asyncio.create_task(render(registry, ""))
    turns = 0
    while not rendering.done():
        await asyncio.sleep(0)
        turns += 1
    samples = sum(len(metric.samples) for metric in registry.collect())
    assert turns > samples / SLICE
