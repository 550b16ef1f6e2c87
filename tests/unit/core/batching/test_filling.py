"""Batches filled with requests of other buckets: where that saves time, and makes none late."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch
from batcher.core.events import InstanceUp, ModelConfigured
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    QueueLimits,
)

BUCKETS = (4, 8, 16)
DEAR_BATCHES = (10.0, 0.01)
"""Milliseconds per batch, and per element: more rows take hardly longer."""
DEAR_ELEMENTS = (0.1, 1.0)
GREEDY = FixedWindow()


@pytest.fixture
def padded(play):
    """`padded(costs, ...)`: a model with one padded axis and an instance that is warmed up."""

    def call(costs=DEAR_BATCHES, *, policy=GREEDY, target=None, instances=1, measured=BUCKETS):
        base, each = costs
        settings = ModelSettings(
            8,
            policy,
            QueueLimits(),
            None if target is None else int(target * MILLISECOND),
            (PaddedAxis(0, 1, BUCKETS),),
        )
        play.feed(ModelConfigured("m", settings))
        profiles = tuple(
            (
                ((length,),),
                tuple((n, int((base + each * n * length) * MILLISECOND)) for n in (1, 4, 8)),
            )
            for length in measured
        )
        for number in range(instances):
            play.feed(InstanceUp(f"i{number}", 1, "m", "d", 1, (), profiles))
        return play

    return call


def busy(play, request_id=99):
    """Keep the instance busy with a request of its own; returns that batch's id."""
    (command,) = play.arrive(request_id, shapes=((1,),), key="other")
    return command.batch_id


def sent(commands):
    """(bucket, ids) of every dispatched batch."""
    return [(c.bucket[0][0], [p.id for p in c.parts]) for c in commands if isinstance(c, Dispatch)]


def arrivals(play, **lengths):
    """Requests by id (`r1=3`: the request 1 of length 3), all at once, in this order."""
    return play.feed(
        *[play.request(int(name[1:]), shapes=((length,),)) for name, length in lengths.items()]
    )


def test_lengths_of_one_bucket_share_a_batch_in_order_of_arrival(padded):
    play = padded()
    first = busy(play)
    arrivals(play, r1=3, r2=1, r3=4)
    assert sent(play.done(first, 99, at=10)) == [(4, [1, 2, 3])]


def test_a_smaller_bucket_fills_up_the_batch_of_a_larger_one(padded):
    play = padded()
    first = busy(play)
    arrivals(play, r1=8, r2=4, r3=7, r4=2)
    assert sent(play.done(first, 99, at=10)) == [(8, [1, 3, 2, 4])]


def test_requests_that_need_least_padding_are_added_first(padded):
    play = padded()
    first = busy(play)
    arrivals(play, r1=16, r2=1, r3=1, r6=8, r7=8, r8=8, r9=8, r10=8)
    assert sent(play.done(first, 99, at=10)) == [(16, [1, 6, 7, 8, 9, 10, 2, 3])]


def test_a_part_of_a_group_that_saves_no_batch_is_not_added(padded):
    play = padded()
    first = busy(play)
    arrivals(play, r1=16, r2=16, r3=16, r4=16, r5=16, r6=16, r7=16, r8=1, r9=1)
    assert sent(play.done(first, 99, at=10)) == [(16, [1, 2, 3, 4, 5, 6, 7])]


def test_the_most_urgent_is_padded_to_a_larger_bucket_where_that_saves_a_batch(padded):
    play = padded()
    first = busy(play)
    arrivals(play, r1=4, r2=16)
    assert sent(play.done(first, 99, at=10)) == [(16, [1, 2])]


@pytest.mark.parametrize("lengths", [{"r1": 16, "r2": 4}, {"r1": 4, "r2": 16}])
def test_where_elements_cost_time_no_request_is_padded_further(padded, lengths):
    play = padded(DEAR_ELEMENTS)
    first = busy(play)
    arrivals(play, **lengths)
    assert sent(play.done(first, 99, at=10)) == [(lengths["r1"], [1])]


def test_requests_of_another_batch_key_are_not_added(padded):
    play = padded()
    first = busy(play)
    play.feed(
        play.request(1, shapes=((8,),), key="a"),
        play.request(2, shapes=((4,),), key="b"),
        play.request(3, shapes=((4,),), key="a"),
    )
    assert sent(play.done(first, 99, at=10)) == [(8, [1, 3])]


@pytest.mark.parametrize(("rows", "ids"), [(5, [1, 2]), (6, [1])])
def test_requests_of_several_rows_are_added_where_they_fit(padded, rows, ids):
    play = padded()
    first = busy(play)
    play.feed(play.request(1, shapes=((8,),), rows=3), play.request(2, shapes=((4,),), rows=rows))
    assert sent(play.done(first, 99, at=10)) == [(8, ids)]


def test_an_idle_instance_takes_the_other_bucket_instead(padded):
    play = padded(instances=2)
    assert sent(arrivals(play, r1=8, r2=4)) == [(8, [1]), (4, [2])]


def test_without_batching_nothing_is_filled(padded):
    play = padded(policy=NoBatching())
    first = busy(play)
    arrivals(play, r1=8, r2=4)
    assert sent(play.done(first, 99, at=10)) == [(8, [1])]


@pytest.mark.parametrize(("preferred", "ids"), [((2,), [1, 2]), ((3,), [1, 2, 3])])
def test_a_fill_ends_at_the_next_preferred_size(padded, preferred, ids):
    play = padded(policy=FixedWindow(2 * MILLISECOND, preferred))
    assert arrivals(play, r1=8) == []
    arrivals(play, **{f"r{n}": 4 for n in ids[1:]})
    assert sent(play.feed(at=2)) == [(8, ids)]


def test_a_batch_of_a_preferred_size_is_taken_as_it_is(padded):
    play = padded(policy=FixedWindow(2 * MILLISECOND, (2, 4)))
    assert arrivals(play, r1=4) == []
    assert sent(arrivals(play, r2=8, r3=8)) == [(8, [2, 3])]


@pytest.mark.parametrize(("due", "ids"), [(20.6, [1]), (20.9, [1, 2])])
def test_no_request_is_made_late(padded, due, ids):
    play = padded((10.0, 0.05), policy=Adaptive(), target=100)
    first = busy(play)
    # The first takes 10.4 ms, with the second 10.8.
    play.feed(play.request(1, shapes=((8,),), due=due), play.request(2, shapes=((4,),), due=80.0))
    assert sent(play.done(first, 99, at=10)) == [(8, ids)]


@pytest.mark.parametrize(("due", "batch"), [(20.6, (4, [2])), (20.9, (8, [2, 1]))])
def test_no_request_is_made_late_by_a_larger_bucket(padded, due, batch):
    play = padded((10.0, 0.05), policy=Adaptive(), target=100)
    first = busy(play)
    play.feed(play.request(1, shapes=((8,),), due=40.0), play.request(2, shapes=((4,),), due=due))
    assert sent(play.done(first, 99, at=10)) == [batch]


@pytest.mark.parametrize(("expires", "ids"), [(21.3, [1]), (21.9, [1, 2])])
def test_what_is_only_let_try_goes_alone(padded, expires, ids):
    """It takes 10.4 ms, with another one 10.8; but such batches have taken less."""
    play = padded((10.0, 0.05), policy=Adaptive(), target=100)
    first = busy(play)
    play.scheduler.models["m"].times[((8,),)]._fastest = 9.0 * MILLISECOND, 9.0 * MILLISECOND
    play.feed(play.request(1, shapes=((8,),), due=expires, expires=expires))
    play.feed(play.request(2, shapes=((4,),), due=80.0))
    assert sent(play.done(first, 99, at=11)) == [(8, ids)]


@pytest.mark.parametrize(("expires", "ids"), [(20.05, [1]), (20.3, [1, 2])])
def test_without_a_target_no_request_is_made_to_expire(padded, expires, ids):
    play = padded()
    first = busy(play)
    play.feed(play.request(1, shapes=((8,),)), play.request(2, shapes=((4,),), expires=expires))
    assert sent(play.done(first, 99, at=10)) == [(8, ids)]


def test_a_bucket_that_was_never_measured_is_estimated(padded):
    play = padded(measured=(4, 16))
    first = busy(play)
    arrivals(play, r1=8, r2=4)
    assert sent(play.done(first, 99, at=10)) == [(8, [1, 2])]
    model = play.scheduler.models["m"]
    assert model.times[((8,),)].curve[4] == pytest.approx(10.32 * MILLISECOND, rel=1e-3)


def test_without_measured_times_nothing_is_filled(padded):
    play = padded(measured=())
    assert sent(arrivals(play, r1=8, r2=4)) == [(8, [1])]


def test_a_change_of_the_device_applies_to_every_bucket(padded):
    play = padded()
    model = play.scheduler.models["m"]
    before = model.times[((16,),)].curve[1]
    for number in range(1, 5):
        (command,) = play.arrive(number, shapes=((4,),), at=100.0 * number)
        play.done(command.batch_id, number, at=100.0 * number + 40.0)
    assert model.times[((4,),)].curve[1] == pytest.approx(40 * MILLISECOND, rel=0.05)
    assert model.times[((16,),)].curve[1] == pytest.approx(4 * before, rel=0.05)


def test_new_buckets_move_waiting_requests(padded):
    play = padded()
    first = busy(play)
    arrivals(play, r1=3, r2=5)
    settings = play.scheduler.models["m"].settings
    other = ModelSettings(8, settings.policy, settings.queue, None, (PaddedAxis(0, 1, (6, 16)),))
    play.feed(ModelConfigured("m", other))
    assert sent(play.done(first, 99, at=10)) == [(6, [1, 2])]


def test_a_request_that_fits_no_new_bucket_keeps_its_length(padded):
    play = padded(DEAR_ELEMENTS)
    first = busy(play)
    arrivals(play, r1=16, r2=13)
    settings = play.scheduler.models["m"].settings
    other = ModelSettings(8, settings.policy, settings.queue, None, (PaddedAxis(0, 1, (4,)),))
    play.feed(ModelConfigured("m", other))
    assert sent(play.done(first, 99, at=10)) == [(16, [1])]
    assert sent(play.done(2, 1, at=40)) == [(13, [2])]


def test_the_backlog_is_the_sum_over_buckets(padded):
    play = padded((0.0, 1.0))
    busy(play)
    arrivals(play, r1=16, r2=4)
    (model,) = play.scheduler.observe(0).models
    assert model.backlog_ns == pytest.approx(20 * MILLISECOND, rel=0.01)
