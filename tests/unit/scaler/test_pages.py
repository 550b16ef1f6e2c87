"""The pages say of the scaler what its code says."""

import json
import re
from pathlib import Path

import pytest
import yaml

from batcher.clock import SECOND
from batcher.config import format_duration
from batcher.scaler import config, report
from batcher.scaler.app import GRACE_S, READY_AFTER_NS
from batcher.scaler.asking import KEYS, MAX_TARGET, MIN_TARGET, read_question
from batcher.scaler.channels import MAX_METADATA_BYTES
from batcher.scaler.config import FleetConfig, PollConfig, parse_scaler_config, scaler_schema
from batcher.scaler.judging import CONTRADICTION_NS, STUCK_NS
from batcher.scaler.polling import POLL_SPACING_NS
from batcher.scaler.readings import MOST_VALUES, READINGS
from batcher.scaler.replica import MISSED_POLLS, State
from batcher.scaler.report import Cause
from batcher.scaler.streams import MAX_STREAMS
from batcher.scaler.turns import CALLS_PER_ITERATION
from batcher.scaler.waking import MAX_TOKEN_BYTES

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "scaler.md").read_text(encoding="utf-8")
LIMITS = (DOCS / "limits.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows():
    """What limits -> its value, of the scaler's section."""
    section = LIMITS.split("## The external scaler")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|", section, re.MULTILINE))


def test_the_settings_among_the_limits(rows):
    assert rows["`fleets[].poll.timeout`"] == "800ms"
    assert PollConfig.model_fields["timeout"].default == 800_000_000
    for key in ("keep_last", "average", "wake_for"):
        default = FleetConfig.model_fields[key].default
        assert rows[f"`fleets[].{key}`"] == format_duration(default)


def test_the_limits_that_no_key_changes(rows):
    assert rows["polls"] == f"{SECOND // POLL_SPACING_NS} a second"
    assert rows["fleets of a scaler"] == str(config.MAX_FLEETS)
    size, models = report.MAX_REPORT_BYTES >> 20, f"{report.MAX_MODELS:,}"
    assert rows["a load report"] == f"{size} MiB, {models} models, {models} devices"
    assert rows["metadata with a load report"] == f"{MAX_METADATA_BYTES >> 10} KiB"
    averaged = rows["reports that are averaged"]
    assert averaged == f"{READINGS + 2} of a replica, {models} models and devices in them together"
    assert rows["values of a report that are kept"] == str(MOST_VALUES)
    longest = format_duration(config.MAX_AVERAGE_NS)
    assert f"| `fleets[].average` | 15s | how far back reports count, {longest} at most |" in LIMITS
    assert rows["a load that is believed"] == f"{report.MOST_LOAD:,.0f}"
    assert rows["streams of `StreamIsActive`"] == f"{MAX_STREAMS:,}"
    assert rows["open calls on a connection"] == f"{config.MAX_CALLS:,}"
    assert config.MAX_CALLS == 2 * MAX_STREAMS
    begun = rows["calls that begin in an iteration of the event loop"]
    assert begun == str(CALLS_PER_ITERATION)
    assert rows["a message of a caller"] == f"{config.MAX_MESSAGE_BYTES >> 10} KiB"
    assert rows["bytes kept for callers"] == f"{config.MAX_BUFFERED_BYTES >> 20} MiB"
    assert rows["a target"] == f"{MIN_TARGET:g} to 1e9"
    assert MAX_TARGET == 1e9
    assert rows["the token of `wake_token`"] == f"{MAX_TOKEN_BYTES >> 10} KiB"
    assert rows["time until it is ready"] == f"{READY_AFTER_NS // SECOND}s"
    assert rows["time for calls at the end"] == f"{GRACE_S:g}s"
    assert f"| fleets | {config.MAX_FLEETS}," in LIMITS


def test_every_state_cause_and_key_has_a_row():
    for word in (*State, *Cause, *KEYS):
        assert f"\n| `{word}` |" in PAGE, word


def test_the_times_that_the_page_tells():
    assert STUCK_NS == 5 * SECOND
    assert "the same report for more than five seconds" in PAGE
    assert CONTRADICTION_NS == 15 * SECOND
    assert "for fifteen seconds on end" in PAGE
    assert MISSED_POLLS == 3
    assert "three polls may be lost" in PAGE


def test_the_examples_are_right():
    file, scaled_object = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    fleets = {each.name: each.models for each in parse_scaler_config(file).fleets}
    (trigger,) = yaml.safe_load(scaled_object)["spec"]["triggers"]
    question = read_question(trigger["metadata"], fleets)
    assert trigger["metricType"] == question.metric.metric_type


def test_the_exported_schema_is_current():
    """Make it again with `batcher schema --scaler > docs/scaler.schema.json`."""
    exported = json.loads((DOCS / "scaler.schema.json").read_text(encoding="utf-8"))
    assert exported == scaler_schema()
