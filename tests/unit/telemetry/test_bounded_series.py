"""However often models come, go and change, the number of series is that of what is there."""

from batcher.core.commands import Outcome, Reason
from batcher.core.observation import InstanceObservation, ModelObservation, Observation
from batcher.telemetry.model import DEVICES

MANY = 10_000


def series(registry):
    return {
        (sample.name, *sorted(sample.labels.items()))
        for metric in registry.collect()
        for sample in metric.samples
    }


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
