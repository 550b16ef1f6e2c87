"""Which bucket a request belongs to, what it may be padded to, and what an unknown one takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.queueing.padding import MOST_KNOWN, Buckets, estimate, volume
from batcher.core.settings import PaddedAxis

IDS = PaddedAxis(0, 1, (4, 8))
IMAGE = (PaddedAxis(0, 1, (10, 20)), PaddedAxis(0, 2, (10, 30)))


@pytest.mark.parametrize(
    ("axes", "shapes", "bucket"),
    [
        ([IDS], ((1,),), ((4,),)),
        ([IDS], ((4,),), ((4,),)),
        ([IDS], ((5,),), ((8,),)),
        ([IDS], ((9,),), ((9,),)),  # admission refuses it; settings may change while it waits
        ([IDS], ((0,),), ((4,),)),
        ([IDS], ((3,), (3,)), ((4,), (3,))),
        ([PaddedAxis(1, 1, (4,))], ((3,), (3,)), ((3,), (4,))),
        (IMAGE, ((7, 11, 3),), ((10, 30, 3),)),
        (IMAGE, ((), (7,)), ((), (7,))),
        ([IDS], (), ()),
    ],
)
def test_the_bucket_of_a_shape(axes, shapes, bucket):
    buckets = Buckets(axes)
    assert buckets.of(shapes) == bucket
    assert buckets.of(shapes) == bucket, "found again"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True), st.integers(0, 50))
def test_the_bucket_is_the_least_that_holds(lengths, length):
    axis = PaddedAxis(0, 1, tuple(sorted(lengths)))
    ((found,),) = Buckets([axis]).of(((length,),))
    assert found == min((each for each in lengths if each >= length), default=length)


def test_the_number_of_remembered_shapes_is_bounded():
    buckets = Buckets([IDS])
    for length in range(2 * MOST_KNOWN):
        buckets.of(((length,),))
    assert len(buckets._known) <= MOST_KNOWN


@pytest.mark.parametrize(
    ("bucket", "other", "holds"),
    [
        (((8, 5),), ((4, 5),), True),
        (((8, 5),), ((8, 5),), True),
        (((4, 5),), ((8, 5),), False),
        (((8, 5),), ((4, 4),), False),  # the second axis is not padded
        (((8,),), ((4, 5),), False),
        (((8,), (8,)), ((4,),), False),
    ],
)
def test_what_a_bucket_holds(bucket, other, holds):
    assert Buckets([IDS]).holds(bucket, other) is holds


def test_the_volume_of_a_row():
    assert volume(((4,), (3, 5), ())) == 4 + 15 + 1
    assert volume(()) == 0


@pytest.mark.parametrize(
    ("known", "at", "took"),
    [
        ([(10, 100.0), (20, 150.0)], 15, 125.0),
        ([(10, 100.0), (20, 150.0)], 20, 150.0),
        ([(10, 100.0), (20, 150.0)], 40, 250.0),
        ([(10, 100.0), (20, 150.0)], 4, 70.0),
        ([(10, 100.0), (20, 300.0)], 1, 10.0),  # never less than in proportion
        ([(10, 100.0)], 20, 150.0),
        ([(10, 100.0)], 5, 75.0),
        ([(20, 150.0), (10, 100.0), (40, 400.0)], 30, 275.0),
    ],
)
def test_an_unknown_bucket_lies_on_a_line_through_known_ones(known, at, took):
    assert estimate(at, known) == pytest.approx(took)
