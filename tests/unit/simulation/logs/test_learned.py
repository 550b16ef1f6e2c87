import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import FailureCause
from batcher.simulation.engine.simulation import generator
from batcher.simulation.logs.learned import LEAST, NEAREST, Kinds, Sample, Sampler, uniform


@pytest.fixture
def chance():
    return uniform(generator(0, "test"))


def cost(rows):
    return 5 * MILLISECOND + rows * MILLISECOND // 2


def samples(count, factor=lambda number: 1.0, sizes=(1, 4, 16)):
    return [
        Sample(number * SECOND // 100, size, round(cost(size) * factor(number)))
        for number in range(count)
        for size in sizes
    ]


def test_without_noise_a_draw_is_the_curve(chance):
    sampler = Sampler(samples(40), 32)
    for rows in (1, 4, 16):
        assert sampler.draw(0, rows, chance) == (cost(rows), None)
    assert sampler.draw(0, 10, chance) == (cost(10), None)  # between, and beyond
    assert sampler.draw(0, 32, chance)[0] == pytest.approx(cost(32), rel=0.01)
    assert sampler.draw(0, 64, chance)[0] > cost(32)


def test_draws_have_the_recorded_noise(chance):
    noise = np.random.default_rng(1).normal(1.0, 0.1, 2000)
    sampler = Sampler(samples(2000, lambda number: noise[number], sizes=(8,)), 32)
    drawn = [sampler.draw(n * SECOND // 100, 8, chance)[0] / cost(8) for n in range(2000)]
    assert np.std(drawn) == pytest.approx(np.std(noise), rel=0.15)
    assert np.mean(drawn) == pytest.approx(np.mean(noise), rel=0.02)


def test_a_slow_spell_keeps_its_time(chance):
    slow = range(600, 800)
    sampler = Sampler(samples(2000, lambda number: 6.0 if number in slow else 1.0), 32)
    ratios = {
        second: np.median(
            [sampler.draw(second * SECOND, 4, chance)[0] / cost(4) for _ in range(50)]
        )
        for second in (1, 7, 15)
    }
    assert ratios == {1: pytest.approx(1), 7: pytest.approx(6), 15: pytest.approx(1)}


def test_one_slow_batch_does_not_raise_the_curve(chance):
    odd = [Sample(0, 2, 500 * MILLISECOND)]
    sampler = Sampler([*samples(200), *odd], 32)
    assert sampler.curve[4] == cost(4)
    assert sampler.curve[16] == cost(16)


def test_batches_that_failed_fail_again_at_about_their_time(chance):
    failed = [Sample(5 * SECOND + n, 4, 1000, FailureCause.DEVICE) for n in range(2 * NEAREST)]
    sampler = Sampler([*samples(1000, sizes=(4,)), *failed], 32)
    causes = [sampler.draw(5 * SECOND + NEAREST, 4, chance)[1] for _ in range(50)]
    assert set(causes) == {FailureCause.DEVICE}
    assert sampler.draw(0, 4, chance) == (cost(4), None)


def test_the_narrowest_kind_with_enough_samples_is_used():
    kinds = Kinds(32)
    assert kinds.find("narrow", "wide") is None
    for sample in samples(LEAST - 1, sizes=(4,)):
        kinds.add(sample, "narrow", "wide")
    for sample in samples(5, lambda number: 2.0, sizes=(4,)):
        kinds.add(sample, "other", "wide")
    narrow = kinds.find("narrow", "wide")
    assert narrow is kinds.find("other", "wide")  # both have too few
    kinds = Kinds(32)
    for sample in samples(LEAST, sizes=(4,)):
        kinds.add(sample, "narrow", "wide")
    assert kinds.find("narrow", "wide") is not kinds.find("wide")
