"""What makes the server ready, and when its watchers are called."""

from dataclasses import dataclass

import pytest

from batcher.runtime.health import Health, ModelHealth, ModelState


@dataclass
class Model:
    name: str = "m"
    state: ModelState = ModelState.READY
    reason: str = ""

    @property
    def health(self):
        return ModelHealth(self.name, "1", self.state is ModelState.READY, self.reason, self.state)


@pytest.fixture
def models():
    return [Model("a"), Model("b")]


@pytest.fixture
def health(models):
    health = Health()
    health.of(models)
    return health


def test_the_server_is_not_ready_before_it_has_started(health):
    assert (health.report().ready, health.report().reason) == (False, "starting")
    health.started()
    assert (health.report().ready, health.report().reason) == (True, "")


@pytest.mark.parametrize("state", [ModelState.LOADING, ModelState.UNREADY, ModelState.FAILED])
def test_a_model_that_cannot_serve_makes_the_server_unready(health, models, state):
    health.started()
    models[1].state = state
    assert (health.report().ready, health.report().reason) == (False, "not ready: b")
    assert health.report().live


def test_an_unloaded_model_does_not_make_the_server_unready(health, models):
    health.started()
    models[1].state = ModelState.UNLOADED
    assert health.report().ready
    assert [model.ready for model in health.report().models] == [True, False]


def test_draining_and_broken_are_final(health):
    health.started()
    health.drain()
    assert (health.report().ready, health.report().reason) == (False, "draining")
    assert health.report().ending
    assert health.report().live
    health.broken("the scheduler failed")
    assert (health.report().live, health.report().reason) == (False, "the scheduler failed")


def test_watchers_are_called_now_and_at_each_change(health, models):
    reports = []
    health.watch(lambda report: reports.append(report.ready))
    health.started()
    models[0].state = ModelState.UNREADY
    health.changed()
    assert reports == [False, True, False]


def test_a_watcher_that_raises_does_not_affect_the_others(health, caplog):
    reports = []

    def raises(_):
        if reports:
            raise ValueError("no")

    health.watch(raises)
    health.watch(lambda report: reports.append(report.ready))
    health.started()
    assert reports == [False, True]
    assert "a watcher of the server's health failed" in caplog.text
