"""Whatever a replica or a ScaledObject says, it is believed or refused, and nothing else happens."""

from math import isfinite

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import SECOND
from batcher.protocol import load
from batcher.scaler.aggregation import Member, estimate
from batcher.scaler.asking import RefusedError, read_question
from batcher.scaler.discovery import Endpoint
from batcher.scaler.metrics import METRICS
from batcher.scaler.replica import Replica, State

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
NUMBER = st.one_of(st.floats(0, 10), ANY_FLOAT)
COUNT = st.one_of(st.integers(0, 100), st.integers(-(2**63), 2**63 - 1))


@st.composite
def reports(draw):
    """Messages whose fields hold anything that the wire can carry."""
    report = load.LoadReport(number=draw(st.integers(0, 2**64 - 1)), timestamp_seconds=draw(NUMBER))
    replica = report.replica
    replica.start_id = draw(st.sampled_from(["a", "b", ""]))
    replica.uptime_seconds = draw(NUMBER)
    replica.ready, replica.draining = draw(st.booleans()), draw(st.booleans())
    if draw(st.booleans()):
        replica.desired_ratio = draw(NUMBER)
    for _ in range(draw(st.integers(0, 2))):
        model = report.models.add(model=draw(st.text(max_size=3)), state=draw(st.text(max_size=5)))
        model.queue_requests = draw(COUNT)
        model.queue_backlog_seconds = draw(NUMBER)
        model.requests.add(outcome="ok", count=draw(COUNT))
        model.devices.add(device="gpu0", load_ratio=draw(NUMBER))
        model.recent.requests_per_second = draw(NUMBER)
    if draw(st.booleans()):
        report.devices.add(device="gpu0", duty_cycle_ratio=draw(NUMBER))
    return report.SerializeToString()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.binary(max_size=60), reports()), max_size=6))
def test_what_replicas_say(messages):
    replica = Replica(Endpoint("10.0.0.1:8001"), 0, fresh_ns=4 * SECOND, keep_ns=30 * SECOND)
    for second, data in enumerate(messages):
        now_ns = second * SECOND
        replica.answered(data, now_ns)
        assert (replica.cause is None) == (replica.error == "")
        member = Member(replica.state(now_ns), replica.reported(now_ns), replica.readings, now_ns)
        for metric in METRICS.values():
            found = estimate([member, Member(State.UNKNOWN, None)], metric)
            if found is not None:
                value = found.for_target(0.8, metric.how)
                assert isfinite(value)
                # KEDA multiplies it by a thousand, into 64 bits.
                assert 0 <= value < 2**63 / 1000
        if replica.report is None:
            assert not replica.is_known(now_ns)


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.one_of(st.sampled_from(["fleet", "metric", "target", "model"]), st.text(max_size=9)),
        st.one_of(st.sampled_from(["ranker", "desired_ratio", "0.8"]), st.text(max_size=9)),
        max_size=5,
    )
)
def test_what_scaled_objects_ask(metadata):
    try:
        question = read_question(metadata, {"ranker": ()})
    except RefusedError as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 600
    else:
        assert question.fleet == "ranker"
        assert 0.001 <= question.target <= 1e9
