"""The HTTP edge: metrics for scrapers, probes for orchestrators, a page for people.

It shares the event loop with the data plane, so nothing here may hold the loop for long: the
metrics are rendered a slice at a time, once for all requests that wait. Probes are answered
whatever other clients do here: see `connection`.
"""

from batcher.web.app import build_app
from batcher.web.exposition import render
from batcher.web.server import HttpServer

__all__ = ["HttpServer", "build_app", "render"]
