"""Parts of the exposition: added in any order, exported in that of `FAMILIES`, and harmless when they fail."""

import logging

import pytest

from batcher.telemetry import RecordingPart, RepositoryPart, RepositoryPoints
from batcher.telemetry.export import single_values
from batcher.telemetry.families import Family, recording, repository


def names(registry):
    return [metric.name for metric in registry.collect()]


class Failing:
    """Gives its first family and raises instead of giving the second, while `broken`."""

    families = recording.FAMILIES[:2]
    broken = True

    def collect(self, _):
        yield single_values(self.families[0], [((), 1)])
        if self.broken:
            raise RuntimeError("no such thing")
        yield single_values(self.families[1], [((), 1)])


def test_the_order_is_that_of_the_definitions(telemetry, registry):
    telemetry.add(RepositoryPart(RepositoryPoints))
    telemetry.add(Failing())
    found = names(registry)
    assert found.index(recording.FAMILIES[0].name) < found.index(repository.FAMILIES[0].name)
    assert found[0] == "batcher_build_info"


def test_a_part_that_raises_costs_its_own_families_and_one_line(telemetry, registry, caplog):
    whole = names(registry)
    part = Failing()
    telemetry.add(part)
    telemetry.add(RepositoryPart(RepositoryPoints))
    behind = [family.name for family in repository.FAMILIES]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert names(registry) == [*whole, part.families[0].name, *behind]
    (record,) = caplog.records
    assert "Failing" in record.getMessage()
    part.broken = False
    assert names(registry) == [*whole, *(family.name for family in part.families), *behind]
    part.broken = True
    names(registry)
    assert len(caplog.records) == 2


def test_a_scheduler_that_cannot_be_asked_costs_what_only_it_knows(telemetry, model, value, caplog):
    def fail():
        raise RuntimeError("no such thing")

    telemetry.watch(fail)
    assert value("batcher_latency_target_missed_total") == 0
    assert value("batcher_queue_requests") is None
    assert "the scheduler's state could not be read" in caplog.text


def test_a_family_is_added_once_and_is_a_defined_one(telemetry):
    telemetry.add(Failing())
    with pytest.raises(ValueError, match="exported already"):
        telemetry.add(RecordingPart(None))
    unknown = Failing()
    unknown.families = (Family("batcher_else", "gauge", "", (), "Something."),)
    with pytest.raises(ValueError, match="not in FAMILIES"):
        telemetry.add(unknown)
