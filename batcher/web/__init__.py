"""The HTTP server: `/metrics` for Prometheus, `/healthz` and `/readyz` for health probes, an index page.

It shares the event loop with inference, so nothing here may hold the loop for long: metrics are
rendered in slices, once for all requests that wait (`exposition`). Health probes are answered whatever
other clients do here (`connection`).
"""

from batcher.web.app import build_app
from batcher.web.exposition import render
from batcher.web.server import HttpServer

__all__ = ["HttpServer", "build_app", "render"]
