"""Collectors: real servers of OTLP, over gRPC and over HTTP, that keep what they are sent."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from batcher.app import running
from batcher.config import parse_config


def plain(values):
    """Attributes as a dict of plain values."""
    found = {}
    for each in values:
        kind = each.value.WhichOneof("value")
        found[each.key] = getattr(each.value, kind)
    return found


class Collector:
    """What was received: `spans`, the resource of the last export, its headers."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.address = ""
        self.spans = []
        self.resource = {}
        self.headers = {}
        self.received = threading.Event()
        self.release = threading.Event()
        self.release.set()
        """Cleared, the collector takes no span until it is set."""

    def take(self, request, headers):
        self.headers = dict(headers)
        self.received.set()
        assert self.release.wait(60)
        for resource in request.resource_spans:
            self.resource = plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                assert scope.scope.name == "batcher"
                self.spans += scope.spans

    @property
    def section(self):
        return {"endpoint": f"http://{self.address}", "protocol": self.protocol}

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    @property
    def requests(self):
        return [span for span in self.spans if span.kind == span.SPAN_KIND_SERVER]

    def children(self, parent):
        found = [s for s in self.spans if s.parent_span_id == parent.span_id]
        return {span.name: span for span in found if span.trace_id == parent.trace_id}


class Service(TraceServiceServicer):
    def __init__(self, collector):
        self.collector = collector

    def Export(self, request, context):  # noqa: N802 - the name of the RPC
        self.collector.take(request, context.invocation_metadata())
        return ExportTraceServiceResponse()


@contextmanager
def grpc_collector(credentials=None):
    collector = Collector("grpc")
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Service(collector), server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    collector.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        collector.release.set()
        server.stop(0).wait()


@contextmanager
def http_collector():
    collector = Collector("http")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces", self.path
            collector.take(ExportTraceServiceRequest.FromString(body), self.headers)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(params=("grpc", "http"))
def collector(request):
    """A collector for each protocol."""
    with (grpc_collector if request.param == "grpc" else http_collector)() as made:
        yield made


@pytest.fixture
def collector_over_grpc():
    """For what does not depend on the protocol."""
    with grpc_collector() as made:
        yield made


@pytest.fixture
def traced(transport):
    """A context manager: a server of this document whose traces go to a collector; leaving flushes them."""

    @asynccontextmanager
    async def traced(collector, document, **section):
        listeners = {"transport": transport, "grpc": ["127.0.0.1:0"], "http": None}
        server = listeners | document.get("server", {})
        tracing = collector.section | {"sample_ratio": 1} | section
        whole = document | {"server": server, "tracing": tracing}
        async with running(parse_config(json.dumps(whole), "test", {})) as application:
            yield application

    return traced
