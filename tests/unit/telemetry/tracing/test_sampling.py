"""Head sampling: the ratio, the trace id that decides, the caller's decision."""

from random import Random

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from batcher.telemetry.tracing.sampling import Sampler

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{}"


def sampler(ratio, seed=1):
    return Sampler(ratio, Random(seed).getrandbits)


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.01, 0.3, 1.0])
def test_the_share_that_is_sampled(ratio):
    many, sampled = 100_000, 0
    draws = sampler(ratio)
    for _ in range(many):
        sampled += draws.context(()).sampled
    spread = (many * ratio * (1 - ratio)) ** 0.5
    assert abs(sampled - many * ratio) <= 5 * spread


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_it_decides_as_opentelemetry_does(ratio):
    theirs, draws = TraceIdRatioBased(ratio), sampler(ratio, seed=2)
    for _ in range(500):
        context = draws.context(())
        decision = theirs.should_sample(None, context.trace_id, "").decision
        assert context.sampled is (decision is Decision.RECORD_AND_SAMPLE)


def test_ids_are_their_own():
    draws = sampler(1.0)
    contexts = [draws.context(()) for _ in range(1000)]
    ids = [i for each in contexts for i in (each.trace_id, each.span_id, each.execute_id)]
    assert len(set(ids)) == 3000
    assert all(each.parent_id == 0 for each in contexts)


def test_no_id_is_0():
    zero = Sampler(1.0, lambda _: 0).context(())
    assert 0 not in {zero.trace_id, zero.span_id, zero.execute_id}


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True)])
def test_the_callers_decision_counts(ratio, flags, sampled):
    metadata = [("traceparent", PARENT.format(flags)), ("tracestate", "a=1")]
    context = sampler(ratio).context(metadata)
    assert context.sampled is sampled
    assert f"{context.trace_id:032x}-{context.parent_id:016x}" in PARENT
    assert context.state == "a=1"


def test_a_malformed_parent_is_none():
    assert sampler(1.0).context([("traceparent", "nonsense")]).sampled
    assert not sampler(0.0).context([("traceparent", "nonsense")]).sampled
