"""What is sent is what the library makes of the same spans, in its own classes and by its own encoder."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from batcher.config import TracingConfig
from batcher.core.commands import Blame, MissedTime, Outcome, RefusalCause
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.tracing.encoding import _EXPORTERS, SpanEncoder, message_of
from batcher.telemetry.tracing.exporters import resource
from batcher.telemetry.tracing.records import TracedBatch, TracedRequest
from batcher.telemetry.tracing.sampling import Sampler

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


EPOCH_NS = 10**18


@pytest.fixture
def both(library):
    """A function that encodes records, and has the library encode them."""
    made = resource(TracingConfig())

    def encode(*records):
        ours, theirs = (iter(range(1, 1000)).__next__ for _ in range(2))
        maker = library(made, theirs)
        spans = [span for each in records for span in maker.spans(each, EPOCH_NS)]
        encoded = SpanEncoder(made, ours).encoded(records, EPOCH_NS)
        assert len(encoded) == len(spans)
        return tuple(map(in_order, (encoded.message, encode_spans(spans))))

    return encode


def in_order(message):
    """The message with the attributes of each span by name: their order means nothing."""
    for span in message.resource_spans[0].scope_spans[0].spans:
        span.attributes.sort(key=lambda each: each.key)
    return message


@pytest.mark.parametrize("name", RECORDS)
def test_it_is_what_the_library_makes(both, name):
    ours, theirs = both(RECORDS[name])
    assert ours == theirs


def test_many_at_once_and_again(both):
    for _ in range(2):
        ours, theirs = both(*RECORDS.values())
        assert ours == theirs


@pytest.mark.parametrize(
    "moments",
    [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        (1, 2, 3, 0, 0, 4),
        (1, 2, 0, 0, 0, 3, 4),
        (1, 2, 3, 9, 10, 5),
    ],
)
def test_requests_that_ended_early(both, moments):
    ours, theirs = both(request(stamps=Stamps(*moments), batches=((1, 2),)))
    assert ours == theirs


def test_a_record_that_cannot_be_encoded_takes_no_other_along(caplog):
    encoder = SpanEncoder(resource(TracingConfig()), SAMPLER.span_id)
    wrong = request(batches=((-1, -1),))
    encoded = encoder.encoded([request(), wrong, request()], EPOCH_NS)
    assert len(encoded) == 2 * len(encoder.encoded([request()], EPOCH_NS))
    assert caplog.text.count("internal error") == 1


def test_the_exporters_of_the_library_ask_for_it(library):
    spans = list(library(resource(TracingConfig()), SAMPLER.span_id).spans(request(), EPOCH_NS))
    for module in _EXPORTERS:
        assert module.encode_spans is message_of
    assert message_of(spans) == encode_spans(spans)
