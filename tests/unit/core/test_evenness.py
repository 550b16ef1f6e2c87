"""How evenly rows arrive, as the load of a model takes it into account."""

from batcher.core.scale.arrivals import LEAST, Evenness


def seen(first_ns, second_ns):
    evenness = Evenness()
    evenness.fold(40, 1)
    evenness.spans = [first_ns] * (LEAST // 2) + [second_ns] * (LEAST // 2)
    evenness.fold(40, 60_000_000_000)
    return evenness


def test_an_even_stream_is_even():
    evenness = seen(400_000_000, 400_000_000)
    assert evenness.seen == LEAST
    assert evenness.part() > 0.85


def test_a_step_of_the_load_is_not_taken_for_an_uneven_stream():
    assert seen(800_000_000, 500_000_000).seen == 0
