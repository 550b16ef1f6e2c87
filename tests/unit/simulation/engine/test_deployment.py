import pytest

from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.traffic.workload import Traffic, parse_mix, parse_whole_mix

ONE = Traffic(parse_mix("m"))
BEST = 8 / 0.013  # rows a second in full batches of 8, which take 5 + 8 ms


def test_capacity_is_that_of_the_best_batch(deployment):
    assert deployment.capacity(ONE) == pytest.approx(BEST)
    two_rows = Traffic(parse_mix("m"), parse_whole_mix("2", least=1))
    assert deployment.capacity(two_rows) == pytest.approx(BEST / 2)


def test_instances_add_up_to_what_the_device_allows(model):
    three = (model(instances=3),)
    assert Deployment(three, {}).capacity(ONE) == pytest.approx(3 * BEST)
    assert Deployment(three, {"device": 2}).capacity(ONE) == pytest.approx(2 * BEST)
    alone = Deployment(three, {}, exclusive=frozenset({"device"}))
    assert alone.capacity(ONE) == pytest.approx(BEST)
    assert alone.device_slots() == {"device": 1}


def test_the_fullest_model_is_the_limit(model):
    both = Deployment((model("a", device="x"), model("b", device="y")), {})
    mixed = Traffic(parse_mix("a=3,b=1"))
    assert both.capacity(mixed) == pytest.approx(BEST / 0.75)
    shared = Deployment((model("a"), model("b")), {"device": 1})
    assert shared.capacity(mixed) == pytest.approx(BEST)


def test_the_events_that_start_it(model):
    two = Deployment((model(instances=2, max_in_flight=3, warmup_sizes=(1, 8)),), {"device": 4})
    assert list(two.events()) == [
        DeviceConfigured("device", 4),
        ModelConfigured("m", two.models[0].settings),
        InstanceUp("m#0", 1, "m", "device", 3),
        InstanceUp("m#1", 1, "m", "device", 3),
    ]
