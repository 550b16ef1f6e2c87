"""The live view: one page (`page`), and the stream of events that it shows (`feed`, `stream`).

The feed samples once a second, whether someone looks or not. Only while someone looks is an event
encoded, once for all viewers. A viewer that reads slowly skips events: nothing is queued for it.
"""

from batcher.web.live.feed import Feed
from batcher.web.live.page import PAGE, SECURITY_HEADERS
from batcher.web.live.stream import EventStream

__all__ = ["PAGE", "SECURITY_HEADERS", "EventStream", "Feed"]
