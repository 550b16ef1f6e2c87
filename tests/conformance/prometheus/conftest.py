"""The benchmarks are scripts, so their folder goes on the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench" / "load"))

from monitoring.scenes import PLANS, DisturbedError, running
from truth import prometheus
from truth.scene import play
from truth.statements import untruths

from batcher.telemetry.families import FAMILIES

LATEST_MS = 50
"""A load that was sent later than this says nothing of ages that are right within as much."""


def untrue(world):
    """What is untrue of a world, as text."""
    wrong = untruths(world, [family.name for family in FAMILIES])
    return "\n".join(f"{family}:\n    " + "\n    ".join(said[:5]) for family, said in wrong.items())


@pytest.fixture
def true(tmp_path):
    """Plays a scene and asserts that every exported family is as is known from the outside.

    `known` gets the world first, and may add events that follow from it; `lives` cuts it into those of
    several servers. A scene in which the machine stood still is played again before it fails.
    """
    if not prometheus.there():
        pytest.skip("prometheus is not installed (.ci/packages.txt)")

    def check(scene, known=lambda world: None, lives=lambda world: [world]):
        for turn in range(3):
            folder = tmp_path / str(turn)
            folder.mkdir()
            world = play(scene, folder)
            if world.late_ms > LATEST_MS:
                continue
            known(world)
            assert len(world.scrapes) > 3
            wrong = [untrue(life) for life in lives(world)]
            if not any(wrong):
                return world
            if turn == 2 or world.facts["stood_ms"] < LATEST_MS / 2:
                pytest.fail("\n".join(wrong), pytrace=False)
        return pytest.skip(f"the load was sent {world.late_ms:.0f} ms late, three times")

    return check


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """The scenes of bench/load/monitoring, played once; their Prometheus answers until the end."""
    if not prometheus.there():
        pytest.skip("prometheus is not installed (.ci/packages.txt)")
    with running(tmp_path_factory.mktemp("scenes")) as found:
        try:
            found.play(*PLANS)
        except DisturbedError as error:
            pytest.skip(str(error))
        yield found
