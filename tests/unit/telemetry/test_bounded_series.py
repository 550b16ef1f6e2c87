"""However often models come, go and change, the number of series is that of what is there."""

from batcher.core.commands import Outcome, Reason
from batcher.core.observation import InstanceObservation, ModelObservation, Observation
from batcher.telemetry.devices.records import MOST_XIDS, OTHER_XID, Record
from batcher.telemetry.model import DEVICES

MANY = 10_000


def series(registry):
    found = [
        (sample.name, *sorted(sample.labels.items()))
        for metric in registry.collect()
        for sample in metric.samples
    ]
    assert len(set(found)) == len(found), "Prometheus refuses a scrape with a series twice"
    return set(found)


def test_models_that_were_removed_leave_nothing(telemetry, registry, model):
    observed = []
    telemetry.watch(lambda: Observation(0, tuple(observed), ()))
    before = series(registry)
    for number in range(MANY):
        key, name = f"{number}/1", f"model-{number}"
        telemetry.model(key, name, "1").device_known("cpu")
        telemetry.forget(key)
        telemetry.remove(name, "1")
        # The scheduler may still have it for a moment; then only its internal name is known.
        observed[:] = [ModelObservation(key, 0, 0, 0, 0, None, None, None)]
    assert series(registry) == before


def test_generations_share_the_series_of_their_model(telemetry, registry, model):
    before = series(registry)
    for number in range(MANY):
        key = f"m:1~{number}"
        assert telemetry.model(key, "m", "1") is model
        model.serves(key, number)
        telemetry.forget(key)
    assert series(registry) == before


def test_replacements_of_instances_share_their_series(telemetry, registry, model):
    def observe(name):
        instances = (InstanceObservation(name, 1, "m:1", "cpu", False, 1),)
        telemetry.watch(lambda: Observation(0, (), instances))
        return series(registry)

    assert observe("m:1/0#1") == observe(f"m:1/0#{MANY}")


def test_devices_that_a_model_has_left_go(registry, model):
    for number in range(MANY):
        model.execution_started(number, f"gpu{number}", number)
        model.execution_ended(number, number + 1)
    found = {dict(labels)["device"] for name, *labels in series(registry) if "busy" in name}
    assert found == {f"gpu{number}" for number in range(MANY - DEVICES, MANY)}


def test_tenants_that_are_not_configured_are_one(registry, model, stamps):
    model.tells_tenants_apart(["gold"])
    before = series(registry)
    for number in range(MANY):
        moments = stamps(1, 1, 1, 1, 1, 1, 2)
        model.request_ended(Outcome.OK, Reason.NONE, 1, moments, None, tenant=f"tenant-{number}")
    assert series(registry) == before


def test_devices_that_models_have_left_go(telemetry, registry):
    telemetry.model("n:1", "n", "1").device_known("cpu")
    before = series(registry)
    for number in range(MANY):
        other = telemetry.model("o:1", "o", "1")
        other.device_known(f"gpu{number}")
        telemetry.forget("o:1")
        telemetry.remove("o", "1")
    assert series(registry) == before


def test_xids_that_a_driver_makes_up_are_one():
    record = Record("GPU-1", watched=True)
    for xid in range(-MANY, MANY):
        record.event(xid, 0)
    assert len(record.xids) == MOST_XIDS
    assert record.xids[OTHER_XID] == 2 * MANY - (MOST_XIDS - 1)
