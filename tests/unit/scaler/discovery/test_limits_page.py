"""docs/limits.md says what the code says about finding replicas."""

import re

from batcher.clock import SECOND
from batcher.scaler.discovery import looking, named
from batcher.scaler.discovery.interface import HEARTBEAT_NS, STALE_NS
from batcher.scaler.discovery.kubernetes import account, api, slices


def test_the_page_has_the_constants(repository):
    page = (repository / "docs" / "limits.md").read_text("utf-8")
    section = page.split("## Finding replicas")[1].split("## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section, re.MULTILINE))
    first, longest = looking.FIRST_S, looking.LONGEST_S
    assert rows == {
        "constant": "value",
        "replicas of a fleet": f"{looking.MAX_REPLICAS:,}",
        "EndpointSlices of a Service": str(slices.MAX_SLICES),
        "a list of EndpointSlices": f"{api.MAX_LIST >> 20} MiB, within {api.ANSWER_S:g}s",
        "one event of a watch": f"{api.MAX_LINE >> 20} MiB",
        "time of a watch": f"{api.WATCH_S}s, and {api.ANSWER_S:g}s more until it ends",
        "a refusal of the API server": f"{api._MAX_REFUSAL >> 10} KiB, of which 400 characters are shown",
        "a token of a ServiceAccount": f"{account.MAX_TOKEN >> 10} KiB",
        "looking for a name": f"{named.LOOKUP_S:g}s, of which {named.SERVER_S:g}s for each attempt",
        "time between two looks for a name": f"{named.LEAST_S:g}s to {named.LONGEST_S:g}s",
        "pause after a failure": f"{first:g}s, doubled up to {longest:g}s, each up to half shorter",
    }


def test_a_discovery_is_heard_before_it_counts_as_failed():
    """A watch, or a pause, with what it takes to answer next, in every way to find replicas."""
    assert api.WATCH_S * SECOND < HEARTBEAT_NS
    assert named.LONGEST_S * SECOND < HEARTBEAT_NS
    assert (api.WATCH_S + 2 * api.ANSWER_S + looking.LONGEST_S) * SECOND < STALE_NS
    assert (named.LONGEST_S + named.LOOKUP_S + looking.LONGEST_S) * SECOND < STALE_NS
