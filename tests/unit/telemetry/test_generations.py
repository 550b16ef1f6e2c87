"""Generations of a model are one model for people: their gauges add up, their counters go on."""

from batcher.core.observation import ModelObservation, Observation
from batcher.telemetry.generations import merged


def observed(key, waiting=0, *, age_ns=None, bisected=0, **fields):
    return ModelObservation(
        key, waiting, waiting, 0, 0, age_ns, None, None, bisected_batches=bisected, **fields
    )


def test_one_is_as_it_is():
    one = observed("m/1", 3)
    assert merged([one], "m/1") is one


def test_what_waits_adds_up_and_what_was_learned_is_that_of_the_one_that_serves():
    old = observed("m/1", 3, age_ns=9, drift=1.5, storm=True, bisected=2)
    new = observed("m/1~2", 4, age_ns=5, drift=1.25, bisected=1)
    for serving, drift in (("m/1", 1.5), ("m/1~2", 1.25), ("", 1.25)):
        both = merged([old, new], serving)
        assert (both.model, both.waiting_requests, both.oldest_waiting_ns) == ("m/1", 7, 9)
        assert (both.drift, both.storm, both.bisected_batches) == (drift, True, 3)
    assert merged([observed("m/1"), observed("m/1~2")], "").oldest_waiting_ns is None


def test_counts_of_a_generation_that_is_gone_are_kept(telemetry, value):
    counts = telemetry.model("m/1", "m", "1")
    assert telemetry.model("m/1~2", "m", "1") is counts
    now = [observed("m/1", bisected=2), observed("m/1~2", 1, bisected=3)]
    telemetry.watch(lambda: Observation(0, tuple(now), ()))
    assert value("batcher_bisections_total") == 5
    counts.generation_ends(now.pop(0))
    telemetry.forget("m/1")
    assert telemetry.of_generation("m/1") is None
    assert value("batcher_bisections_total") == 5
    assert value("batcher_queue_requests") == 1


def test_nothing_is_exported_of_a_model_that_was_removed(telemetry, registry):
    telemetry.model("m/1", "m", "1")
    telemetry.model("n/1", "n", "1")
    telemetry.forget("m/1")
    telemetry.remove("m", "1")
    labels = {s.labels.get("model") for family in registry.collect() for s in family.samples}
    assert labels - {None, ""} == {"n"}
