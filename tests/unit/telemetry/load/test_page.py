"""docs/load-report.md and docs/limits.md say what the protocol and the code say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from google.protobuf import json_format

from batcher.clock import SECOND
from batcher.config.server import MAX_REPLICA
from batcher.protocol import load
from batcher.server.services.load import (
    MAX_INTERVAL_NS,
    MAX_ORCA_STREAMS,
    MAX_WATCHERS,
    MIN_INTERVAL_NS,
    MIN_ORCA_INTERVAL_NS,
)
from batcher.telemetry.load import encoding
from batcher.telemetry.load.reporter import REPORT_INTERVAL_NS

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "load-report.md").read_text(encoding="utf-8")
MESSAGES = (
    "LoadReport",
    "ReplicaLoad",
    "ModelLoad",
    "RecentLoad",
    "RequestCount",
    "ModelDeviceLoad",
    "DeviceLoad",
    "DeviceStatistics",
)


def rows_of_the_page():
    """Message -> (field, "always" or "if known") in order."""
    rows = {}
    for message, field, there in re.findall(
        r"^\| (?:`(\w+)` )?\| `(\w+)` \| [^|]+ \| (always|if known) \|", PAGE, re.MULTILINE
    ):
        rows.setdefault(message or list(rows)[-1], []).append((field, there))
    return rows


def rows_of_the_protocol():
    rows = {}
    for name in MESSAGES:
        fields = load.LoadReport.DESCRIPTOR.file.message_types_by_name[name].fields
        rows[name] = [(field.name, _there(name, field)) for field in fields]
    return rows


def _there(message, field):
    if (message, field.name) == ("DeviceStatistics", "xid_events"):
        return "if known"  # a map has no presence of its own
    own = field.message_type is not None and field.has_presence
    optional = field.containing_oneof is not None or (own and field.name != "replica")
    return "if known" if optional else "always"


def test_the_page_has_every_field():
    assert rows_of_the_page() == rows_of_the_protocol()


@pytest.mark.parametrize("kind", encoding.FIELDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_report_is_one_of_its_message(kind):
    names, _ = encoding.FIELDS[kind]
    message = load.LoadReport.DESCRIPTOR.file.message_types_by_name[kind.__name__]
    assert set(names) == {field.name for field in message.fields}


def test_the_example_of_the_page_is_one():
    (example,) = re.findall(r"```json\n(\{\n  \"number\".*?)```", PAGE, re.DOTALL)
    message = json_format.Parse(example, load.LoadReport())
    assert message.models[0].recent.answers_per_second == json.loads(example)["models"][0][
        "recent"
    ].get("answers_per_second")


def test_the_page_of_limits_has_these():
    text = (DOCS / "limits.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE))
    assert rows["load reports"] == f"one each {REPORT_INTERVAL_NS * 1000 // SECOND}ms"
    assert rows["watchers of the load"] == str(MAX_WATCHERS)
    assert rows["ORCA streams"] == f"{MAX_ORCA_STREAMS:,}"
    longest = f"{MAX_INTERVAL_NS // SECOND // 3600}h"
    shortest = f"{MIN_INTERVAL_NS * 1000 // SECOND}ms"
    assert rows["interval of a watcher"] == f"{shortest} to {longest}"
    shortest = f"{MIN_ORCA_INTERVAL_NS // SECOND}s"
    assert rows["interval of an ORCA stream"] == f"{shortest} to {longest}"
    assert rows["a replica's name"] == f"{MAX_REPLICA} characters"
