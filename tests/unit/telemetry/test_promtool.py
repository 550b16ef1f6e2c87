"""`promtool check metrics` would stay silent: its rules, on what a scrape gives."""

import re

import pytest

from batcher.telemetry.families import FAMILIES

ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
NOT_BASE = {
    *("nanoseconds", "microseconds", "milliseconds", "minutes", "hours", "days", "weeks"),
    *("bits", "kilobytes", "megabytes", "gigabytes", "kibibytes", "mebibytes", "gibibytes"),
    *("percent", "percents", "celsius_degrees", "milliwatts", "kilometers", "millimeters"),
}
TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_follows_the_rules(family):
    name = family.exported_name
    parts = name.split("_")
    assert family.help.strip()
    assert SNAKE_CASE.fullmatch(name)
    assert name.endswith("_total") == (family.kind == "counter")
    assert not name.endswith(("_bucket", "_count", "_sum"))
    assert not ABBREVIATIONS.intersection(parts)
    assert not NOT_BASE.intersection(parts)
    assert not TYPES.intersection(parts)
    assert not {"le", "quantile"}.intersection(family.labels)
    for label in family.labels:
        assert SNAKE_CASE.fullmatch(label)


def test_no_family_is_there_twice():
    names = [family.exported_name for family in FAMILIES]
    assert len(names) == len(set(names))
