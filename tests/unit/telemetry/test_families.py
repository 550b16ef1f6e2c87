"""The families as others see them: on the wire and in the documentation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from batcher.core.commands import Outcome, Reason
from batcher.core.observation import DeviceObservation, ModelObservation, Observation
from batcher.journal import RecordingStatistics
from batcher.telemetry import (
    AdmissionReason,
    GpusPart,
    HealthPoints,
    RecordingPart,
    RepositoryPart,
    RepositoryPoints,
    TransportPart,
    TransportPoints,
)
from batcher.telemetry.budget import Hop
from batcher.telemetry.devices import DeviceState, DeviceStatistics
from batcher.telemetry.families import FAMILIES, Stage
from batcher.telemetry.parts import TracingPart

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[2] / "docs" / "metrics.md"


def some_device():
    """A device of which everything is known."""
    known = {each.name: 1 for each in fields(DeviceStatistics) if each.default is None}
    return DeviceStatistics(
        **known | {"xid_events": {79: 1}},
        device="gpu0",
        state=DeviceState.OK,
        uuid="GPU-1",
        product="H100",
        throttle_reasons={"power_cap": True},
    )


@pytest.fixture
def populated(registry, telemetry, model):
    """A registry in which every family has a sample."""
    model.device_known("cpu")
    model.has_sequences()
    model.tells_tenants_apart(["gold"])
    model.splits_target({Hop.QUEUE: 1})
    model.batch_finished(
        rows=1,
        requests=1,
        max_batch_size=1,
        started_ns=1,
        execute_start_ns=2,
        execute_end_ns=3,
        scattered_ns=4,
        failed=False,
        device="cpu",
        elements=3,
        padding=1,
    )
    observed = ModelObservation("m:1", 0, 0, 0, 0, None, None, 1, device_loads=(("cpu", 0.5),))
    devices = (DeviceObservation("cpu", 1, 0.5),)
    telemetry.watch(lambda: Observation(0, (observed,), (), devices, 0.5))
    some = {"some": 1}
    points = TransportPoints(connections=1, events=some, errors=some, streams=some, goaways=some)
    telemetry.add(TransportPart(lambda: points))
    telemetry.add(RepositoryPart(lambda: RepositoryPoints(models=1, scans=some)))
    telemetry.add(RecordingPart(RecordingStatistics))
    telemetry.add(GpusPart(lambda: [some_device()]))
    telemetry.add(TracingPart(dict))
    instances, abandoned = [(("m", "1", "0", "up"), 1)], [(("m", "1"), 0)]
    states = [(("m", "1", "ready"), 1)]
    telemetry.watch_health(lambda: HealthPoints(True, states, instances, abandoned))
    return registry


def described(text):
    """One line a family, from the text of a scrape: name, type, labels, help."""
    found = {}
    labels = {}
    for line in text.splitlines():
        if match := re.match(r"# HELP (\S+) (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif match := re.match(r"# TYPE (\S+) (\S+)", line):
            found[name] = f"{match[2]} | {{labels}} | {found[name]}"
        else:
            names = re.findall(r'(\w+)="', line)
            labels.setdefault(name, names)
    return "".join(
        f"{name} | {line.format(labels=' '.join(n for n in labels[name] if n != 'le'))}\n"
        for name, line in found.items()
    )


def test_the_family_list_is_the_one_on_file(populated):
    assert described(generate_latest(populated).decode()) == (HERE / "families.txt").read_text()


def test_every_definition_is_exported_once_and_in_order(populated):
    assert [metric.name for metric in populated.collect()] == [family.name for family in FAMILIES]


def test_every_sample_has_the_labels_of_its_definition(populated):
    defined = {family.name: set(family.labels) for family in FAMILIES}
    for metric in populated.collect():
        assert metric.samples, metric.name
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == defined[metric.name], sample.name


def test_openmetrics_text_parses(populated):
    text = generate_openmetrics(populated).decode()
    parsed = list(text_string_to_metric_families(text))
    assert len(parsed) == len(FAMILIES)
    assert {metric.unit for metric in parsed} >= {"seconds", "ratio", "bytes", "rows", "requests"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_are_prometheus_names_in_base_units(family):
    assert re.fullmatch(r"batcher_[a-z_]*[a-z]", family.name)
    assert not family.name.endswith("_total")
    assert (family.buckets is not None) == (family.kind == "histogram")
    assert family.help.endswith(".")
    if family.unit in {"seconds", "bytes", "ratio"}:
        assert family.name.endswith(f"_{family.unit}")


@pytest.mark.parametrize("word", [*Outcome, *filter(None, Reason), *AdmissionReason, *Stage])
def test_the_document_explains_every_label_value(word):
    assert f"`{word}`" in DOCUMENT.read_text()


def test_no_label_is_one_that_prometheus_gives_each_target():
    """It would call ours `exported_instance`."""
    assert not [each.name for each in FAMILIES if {"instance", "job"} & set(each.labels)]
