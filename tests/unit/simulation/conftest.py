import pytest

from batcher.clock import MILLISECOND
from batcher.core.settings import FixedWindow, ModelSettings, QueueLimits
from batcher.simulation.compare.experiment import Experiment
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.service_time import linear
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.arrivals import Poisson
from batcher.simulation.traffic.workload import Mix, Traffic


@pytest.fixture
def model():
    """`model(name="m", **rest)`: 5 ms + 1 ms a row, at most 8 rows, target 50 ms."""

    def call(name="m", *, target_ms=50, max_rows=8, queue=QueueLimits(), **rest):  # noqa: B008 - frozen
        target_ns = None if target_ms is None else target_ms * MILLISECOND
        settings = ModelSettings(max_rows, FixedWindow(), queue, target_ns)
        curve = linear(5 * MILLISECOND, MILLISECOND, max_rows)
        return SimulatedModel(name, settings, curve, **rest)

    return call


@pytest.fixture
def deployment(model):
    """One model with one instance."""
    return Deployment((model(),), {})


@pytest.fixture
def experiment(deployment):
    """`experiment(...)`: 500 Poisson requests at 200/s under `greedy`, or what is said instead."""

    def call(*policies, **given):
        parts = {
            "deployment": deployment,
            "traffic": Traffic(Mix.of(("m", 1.0))),
            "arrivals": Poisson(200.0),
            "requests": 500,
        }
        return Experiment(
            **(parts | given), policies=tuple(map(parse_policy, policies or ("greedy",)))
        )

    return call
