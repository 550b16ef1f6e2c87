"""Models that are loaded at the same time are prepared on several threads."""

import asyncio
import importlib
import threading

from batcher.config import ModelConfig
from batcher.lifecycle import WantedModel
from batcher.model_builder import ModelBuilder


async def test_import_caches_are_dropped_by_one_thread_at_a_time(monkeypatch):
    """Python's own code for it raises KeyError where another thread does the same."""
    dropping, most = [], []
    second = threading.Event()

    def drop():
        dropping.append(1)
        most.append(len(dropping))
        second.wait(0.05)  # time for another thread to come in, if nothing keeps it out
        dropping.pop()

    monkeypatch.setattr(importlib, "invalidate_caches", drop)
    builder = ModelBuilder(None, None)
    wanted = [WantedModel(ModelConfig(name=name, executor="emulated")) for name in "abc"]
    prepared = await asyncio.gather(*(asyncio.to_thread(builder.prepare, each) for each in wanted))
    assert [each.wanted for each in prepared] == wanted
    assert most == [1, 1, 1]
