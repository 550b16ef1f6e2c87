"""Every query of the dashboard, asked of a real Prometheus in every scene: data where there is something, and nothing where it would be a lie."""

import math
import sys
from pathlib import Path

import pytest
from monitoring.dashboard import expression, targets
from monitoring.scenes import PLANS

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from dashboard.panels import rows

TARGETS = targets()
DECLARED = {
    f"{row.title} / {panel.title} / {chr(ord('A') + place)}": query
    for row in rows()
    for panel in row.panels
    for place, query in enumerate(panel.queries)
}

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

every_query = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def largest(found):
    return max((float(each["value"][1]) for each in found), default=0.0)


@every_query
def test_it_has_data_where_it_should_and_only_there(scenes, target):
    query = DECLARED[target.name]
    wrong = []
    for name in PLANS:
        scene = scenes[name]
        found = scene.query(expression(target.expr, scene))
        if name in query.seen:
            if not found:
                wrong.append(f"{name}: no data")
        elif name not in query.may and found and largest(found) > query.stray:
            wrong.append(f"{name}: {found[:3]}")
    assert not wrong


@every_query
def test_what_it_shows_are_numbers(scenes, target):
    """At no moment of any scene, without traffic least of all, is it not a number or without end."""
    for name in PLANS:
        scene = scenes[name]
        for series in scene.range(expression(target.expr, scene)):
            values = [float(value) for _, value in series["values"]]
            assert all(map(math.isfinite, values)), (name, series)
            assert min(values) >= 0 or "not ready" in target.panel["title"]


def test_a_replica_may_be_chosen(scenes):
    normal = scenes["normal"]
    (target,) = [each for each in TARGETS if each.panel["title"] == "Load of each replica"]
    chosen = normal.replicas[0].server.http
    one = normal.query(expression(target.expr, normal, replica=str(chosen)))
    assert [each["metric"]["instance"] for each in one] == [str(chosen)]
    both = [str(each.server.http) for each in normal.replicas]
    assert len(normal.query(expression(target.expr, normal, replica=both))) == 2


def test_restarts_are_marked(scenes):
    (target,) = [
        each for each in TARGETS if each.name.endswith("Restarts, lost instances, settings / A")
    ]
    dead, normal = scenes["dead"], scenes["normal"]
    assert dead.range(expression(target.expr, dead))
    assert not normal.range(expression(target.expr, normal))
