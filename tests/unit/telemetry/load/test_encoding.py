from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from math import inf, nan
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.protocol import load
from batcher.telemetry.devices import DeviceState, DeviceStatistics, FailureCause
from batcher.telemetry.load import (
    DeviceLoad,
    LoadReport,
    ModelLoad,
    SharedEncoding,
    document,
    json_parts,
    message_parts,
)
from batcher.telemetry.load.computation import SLICE_MODELS


def of_json(report):
    return json.loads(b"".join(json_parts(report)), parse_constant=pytest.fail)


def of_message(report):
    return load.LoadReport.FromString(b"".join(message_parts(report)))


@pytest.fixture
def report(reporter, model):
    return reporter.report()


def test_both_forms_are_equal(report):
    text = json.dumps(of_json(report))
    assert json_format.Parse(text, load.LoadReport()) == of_message(report)
    assert of_json(report) == document(report)


@pytest.mark.parametrize("models", [0, 1, SLICE_MODELS, SLICE_MODELS + 1, 50])
def test_parts_are_the_whole(report, models):
    many = tuple([replace(report.models[0], model=f"m{number}") for number in range(models)])
    report = replace(report, models=many)
    assert of_json(report) == document(report)
    assert [each.model for each in of_message(report).models] == [each.model for each in many]
    parts = list(message_parts(report))
    assert len(parts) == 1 + -(-models // SLICE_MODELS)


NAMES = ['a"b', "a\\b", 'x"models":[]', "ä\n\t", "\x00", "模型", "\ud800", "</script>", "a,b={}"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_stay_what_they_are(report, name):
    odd = replace(report.models[0], model=name, reason=name)
    report = replace(report, models=(odd,), replica=replace(report.replica, reason=name))
    expected = name.encode(errors="replace").decode()
    found = of_json(report)
    assert (found["models"][0]["model"], found["replica"]["reason"]) == (expected, expected)
    message = of_message(report)
    assert (message.models[0].model, message.replica.reason) == (expected, expected)


@pytest.mark.parametrize("odd", [inf, -inf, nan])
def test_what_is_no_number_is_absent(report, odd):
    report = replace(
        report,
        replica=replace(report.replica, desired_ratio=odd),
        models=(replace(report.models[0], queue_backlog_seconds=odd),),
    )
    found = of_json(report)
    assert "desired_ratio" not in found["replica"]
    assert "queue_backlog_seconds" not in found["models"][0]
    message = of_message(report)
    assert not message.replica.HasField("desired_ratio")
    assert not message.models[0].HasField("queue_backlog_seconds")


def test_unknown_is_absent_and_zero_is_zero(report):
    model = ModelLoad("m", "1", "loading", oldest_waiting_age_seconds=0.0, queue_requests=0)
    report = replace(report, models=(model,))
    (found,) = of_json(report)["models"]
    assert (found["oldest_waiting_age_seconds"], found["queue_requests"]) == (0, 0)
    assert "queue_rows" not in found
    (message,) = of_message(report).models
    assert message.HasField("queue_requests")
    assert not message.HasField("queue_rows")
    assert not message.HasField("recent")


def test_statistics_of_a_device(report):
    statistics = DeviceStatistics(
        "gpu0",
        DeviceState.LOST,
        "it is gone",
        failures={FailureCause.LOST: "fell off the bus"},
        age_s=1.5,
        utilization=0.5,
        memory_used=5,
        power_w=70.5,
        throttle_reasons={"thermal": True},
        xid_events={79: 1},
    )
    report = replace(report, devices=(DeviceLoad("gpu0", statistics=statistics),))
    (found,) = of_json(report)["devices"]
    assert found["statistics"] == {
        "state": "lost",
        "reason": "it is gone",
        "failures": {"lost": "fell off the bus"},
        "age_seconds": 1.5,
        "uuid": "",
        "product": "",
        "mig": False,
        "utilization_ratio": 0.5,
        "memory_used_bytes": 5,
        "power_watts": 70.5,
        "throttle_reasons": {"thermal": True},
        "xid_events": {"79": 1},
    }
    (message,) = of_message(report).devices
    assert message.statistics.xid_events == {79: 1}
    assert message.statistics.power_watts == 70.5
    assert not message.statistics.HasField("energy_joules")


TEXTS = st.text(st.characters(), max_size=5)
COUNTS = st.integers(0, 2**53)
OF_TYPES = {bool: st.booleans(), int: COUNTS, float: st.floats(), str: TEXTS}


def values(kind):
    """Any value of a field with this annotation."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        keys = st.integers(0, 999) if arguments[0] is int else st.text("ab", max_size=2)
        return st.dictionaries(keys, values(arguments[1]), max_size=2)
    if origin is UnionType:
        return st.one_of(*(st.none() if each is NoneType else values(each) for each in arguments))
    return OF_TYPES[kind]


@given(values(LoadReport))
@settings(max_examples=50)
def test_both_forms_of_any_report_are_equal(report):
    text = b"".join(json_parts(report)).decode()
    json.loads(text, parse_constant=pytest.fail)
    assert json_format.Parse(text, load.LoadReport()) == of_message(report)


async def test_a_thousand_askers_cost_one_report_and_one_encoding(reporter, scheduler, model):
    encoded = []

    def parts(report):
        encoded.append(report.number)
        return json_parts(report)

    shared = SharedEncoding(reporter.current, parts)
    answers = await asyncio.gather(*(shared.current() for _ in range(1_000)))
    assert len(set(map(id, answers))) == 1
    assert (scheduler.looks, encoded) == (1, [1])


async def test_a_later_report_is_encoded_anew(reporter, clock, model):
    shared = SharedEncoding(reporter.current, json_parts)
    first = asyncio.create_task(shared.current())
    await asyncio.sleep(0)
    clock.advance(1_000_000_000)
    numbers = [json.loads(text)["number"] for text in await asyncio.gather(first, shared.current())]
    assert numbers == [1, 2]


async def test_who_gives_up_takes_nothing_from_the_others(reporter, model):
    shared = SharedEncoding(reporter.current, json_parts)
    one, other = (asyncio.create_task(shared.current()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    assert json.loads(await other)["number"] == 1


async def test_an_encoding_that_fails_fails_for_that_report_alone(reporter, clock, model):
    broken = [True]

    def parts(report):
        if broken:
            raise ValueError("no")
        return json_parts(report)

    shared = SharedEncoding(reporter.current, parts)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await shared.current()
    broken.clear()
    clock.advance(1_000_000_000)
    assert json.loads(await shared.current())["number"] == 2
