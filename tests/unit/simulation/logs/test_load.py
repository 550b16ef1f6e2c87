"""What a log says of a model's load, from which settings are suggested."""

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.settings import Adaptive, ModelSettings, PaddedAxis
from batcher.errors import InputError
from batcher.journal import read_log
from batcher.simulation import Driver
from batcher.simulation.logs.load import logged_load
from batcher.testing.recording import RecordedScheduler

PADDING = (PaddedAxis(0, 1, (8, 32)), PaddedAxis(1, 1, (8, 32)))


def story(padding, count=900):
    settings = ModelSettings(4, Adaptive(), target_ns=50 * MILLISECOND, padding=padding)
    yield 0, DeviceConfigured("d", 1)
    yield 0, ModelConfigured("m/2", settings)
    yield 0, InstanceUp("m/2#0", 1, "m/2", "d")
    for number in range(1, count + 1):
        at_ns = SECOND + number * 3 * MILLISECOND
        length = 5 if number % 3 else 30
        shapes = ((length,), (length,)) if padding else ()
        rows = 2 if number % 10 == 0 else 1
        yield at_ns, RequestArrived(number, "m/2", rows, 16, shapes, "", at_ns)


def took(dispatch):
    rows = sum(part.stop - part.start for part in dispatch.parts)
    length = max((axis for shape in dispatch.bucket for axis in shape), default=0)
    return 2 * MILLISECOND + rows * MILLISECOND // 4 + length * MILLISECOND // 32


@pytest.fixture
def logged(tmp_path):
    """Record the story with this padding; returns the load of `m/2` (or of another model)."""

    def call(padding, key="m/2"):
        with RecordedScheduler(tmp_path, segment_ns=SECOND, models={}) as scheduler:
            Driver(scheduler, took, observe=lambda n, c: None).run(story(padding))
        return logged_load(read_log(tmp_path).segments, key)

    return call


def test_arrivals_and_rows_are_those_of_the_log(logged):
    load = logged(())
    assert len(load.arrivals.recorded_s) == 900
    assert load.arrivals.rate == pytest.approx(1000 / 3, rel=0.01)
    assert load.arrivals.recorded_s[0] == 0.0
    assert dict(zip(load.rows.values, load.rows.shares, strict=True)) == {1: 0.9, 2: 0.1}
    assert load.lengths is None
    assert load.largest == 2
    assert not load.closed


def test_times_are_those_that_batches_took(logged):
    profile = logged(()).profile
    assert (profile.model, profile.model_version) == ("m", "2")
    assert profile.buckets == {}
    assert list(profile.sizes) == [1, 2, 4], "up to max_batch_size"
    assert profile.sizes[1].quantiles["p50"] == pytest.approx(2.25)
    assert profile.sizes[2].quantiles["p50"] == pytest.approx(2.5)


def test_a_padded_model_has_lengths_and_times_by_bucket(logged):
    load = logged(PADDING)
    assert load.lengths == {5: 600, 30: 300}
    assert list(load.profile.buckets) == [8, 32]
    short, long = (load.profile.buckets[n][1].quantiles["p50"] for n in (8, 32))
    assert long - short == pytest.approx(24 / 32, rel=0.35)
    assert load.profile.sizes == load.profile.buckets[32]


def test_another_model_is_not_in_it(logged):
    with pytest.raises(InputError, match="the log has no request of other/1; it has those of m/2"):
        logged((), "other/1")
