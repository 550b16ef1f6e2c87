"""What is sent is what the library's own encoder makes of the spans."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from batcher.config import TracingConfig
from batcher.core.commands import Blame, MissedTime, Outcome, RefusalCause
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.tracing.encoding import FastGrpcSpanExporter, encoded
from batcher.telemetry.tracing.exporters import resource
from batcher.telemetry.tracing.records import TracedBatch, TracedRequest
from batcher.telemetry.tracing.sampling import Sampler
from batcher.telemetry.tracing.spans import SpanMaker

PARENT = [
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "a=1,b=2"),
]
SAMPLER = Sampler(1.0)


def request(metadata=(), **fields):
    own = {
        "model": "m",
        "version": "1",
        "outcome": Outcome.OK,
        "reason": "",
        "status": "OK",
        "rows": 3,
        "stamps": Stamps(1, 2, 3, 4, 5, 6, 7, 8),
    }
    return TracedRequest(SAMPLER.context(metadata), **(own | fields))


def batch(**fields):
    own = SAMPLER.context(PARENT if fields.pop("traced_before", False) else ())
    return TracedBatch(
        9,
        "m",
        "1",
        "m:1#0",
        "cpu",
        "((4,),)",
        2,
        8,
        3,
        10,
        0,
        11,
        12,
        13,
        14,
        context=own,
        **fields,
    )


RECORDS = {
    "plain": request(),
    "with a parent": request(PARENT),
    "with everything": request(
        PARENT,
        outcome=Outcome.FAILED,
        reason="device",
        status="UNAVAILABLE",
        target_ns=50_500_000,
        late=True,
        late_hop="execute",
        upstream_ns=1,
        blame=Blame(RefusalCause.MARGIN, MissedTime.TARGET, 7),
        id="id \u00fc",
        tenant="t",
        stream=True,
        batches=((1, 2), (3, 4)),
        attempts=2,
    ),
    "refused": request(
        outcome=Outcome.REJECTED, reason="invalid", status="INVALID_ARGUMENT", stamps=Stamps(1)
    ),
    "batch": batch(links=[(1, 2), (3, 4)]),
    "failed batch": batch(failure="device", has_parent=True, links=[(1, 2)], traced_before=True),
}


@pytest.fixture
def spans():
    maker = SpanMaker(resource(TracingConfig()), SAMPLER.span_id)
    return lambda *records: [span for each in records for span in maker.spans(each, 10**18)]


@pytest.mark.parametrize("name", RECORDS)
def test_it_is_what_the_library_makes(spans, name):
    made = spans(RECORDS[name])
    assert encoded(made) == encode_spans(made)


def test_many_and_none(spans):
    made = spans(*RECORDS.values())
    assert encoded(made) == encode_spans(made)
    assert encoded([]) == encode_spans([])


def test_the_library_asks_for_it():
    """Else nothing is wrong, and tracing costs more: see `encoding`."""
    assert "_translate_data" in vars(OTLPSpanExporter)
    assert FastGrpcSpanExporter._translate_data is not OTLPSpanExporter._translate_data
