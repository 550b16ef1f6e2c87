"""Child processes are killed, stopped and crash under load. What must hold: `bench/load/kills.py`.

All tests but the last share a server: three models run in child processes there, of which each test has one.
"""

import itertools
import os
import signal
from pathlib import Path

import kills
import pytest

ROUNDS = 20
"""Most take about a second; those in which a child hangs, `execute_timeout` longer."""

PATIENT = {"execute_timeout": "3s", "health": {"interval": "1s", "timeout": "2s"}}
LIMITED = {"instances": 1, "restart": {"limit": 1}}


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    """The times of the benchmark are those of a machine with nothing else to do."""
    monkeypatch.setattr(kills, "DEADLINES_S", (20.0, 30.0, 40.0))
    monkeypatch.setattr(kills, "ALLOWANCE_S", 10.0)
    monkeypatch.setattr(kills, "QUICK_S", 10.0)
    monkeypatch.setattr(kills, "RATE", 60.0)
    monkeypatch.setattr(kills, "POLL_S", 0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    document = kills.document(idempotent=False, **PATIENT)
    document["models"] += [
        kills.document(idempotent=idempotent, name=name, **PATIENT | other)["models"][0]
        for name, idempotent, other in (("again", True, {}), ("limited", False, LIMITED))
    ]
    with kills.ServerProcess(document, folder=tmp_path_factory.mktemp("kills")) as started:
        yield started


def test_nothing_is_lost_but_the_batches_and_nothing_is_left(server):
    kinds = tuple(itertools.islice(itertools.cycle(kills.KINDS), ROUNDS - 6))
    result = kills.asyncio.run(kills.rounds(server, len(kinds), kinds))
    assert not result.problems
    assert not [check for check, held in result.checks().items() if not held]


def test_idempotent_requests_of_lost_batches_are_answered(server):
    kinds = ("SIGKILL", "SIGSTOP", "exit", "SIGKILL", "crash", "SIGKILL")
    result = kills.asyncio.run(kills.rounds(server, len(kinds), kinds, "again"))
    assert not result.problems
    assert result.answered >= 0.99
    # Only those in a group with a request that crashes its instance each time.
    assert {e.status for r in result.rounds if r.kind.startswith("SIG") for e in r.ended} == {"OK"}


async def test_a_child_that_was_stopped_while_it_is_idle_is_replaced(server, scrape, eventually):
    async def hung():
        found = await scrape(server.http)
        return found.sum("batcher_instance_losses_total", model="double", reason="hung")

    before = await hung()
    [victim, _] = kills.children(server.process.pid, "double")
    os.kill(victim, signal.SIGSTOP)

    async def replaced():
        return await hung() == before + 1

    await eventually(replaced, within_s=60)
    await eventually(lambda: not Path(f"/proc/{victim}").exists(), within_s=60)
    await eventually(lambda: kills.all_up(server.http), within_s=60)


async def test_after_its_restarts_an_instance_stays_down_and_says_why(server, scrape, eventually):
    callers = kills.Callers(server.grpc, "limited")

    def found():
        models = kills.readiness(server.http)["models"]
        return next(each for each in models if each["name"] == "limited")

    try:
        for number in (1, 2):
            [victim] = kills.children(server.process.pid, "limited")
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda n=number: kills.losses(server.http, "limited") == n)
            await eventually(
                lambda: found()["instances"][0]["state"] in {"up", "failed"}, within_s=60
            )
        report = kills.readiness(server.http)
        assert not report["ready"]
        assert "limited" in report["reason"]
        limited = found()
        assert {each["state"] for each in limited["instances"]} == {"failed"}
        assert "SIGKILL" in limited["reason"]
        assert "restart.limit" in limited["reason"]
        others = [each for each in report["models"] if each["name"] != "limited"]
        assert all(each["ready"] for each in others)
        ended = await callers.ask()
        assert (ended.status, "no instance is up" in ended.text) == ("UNAVAILABLE", True)
        assert (await callers.ask(model="calm")).status == "OK"
        metrics = await scrape(server.http)
        assert metrics.sum("batcher_instance_state", model="limited", state="failed") == 1
        assert metrics.sum("batcher_instance_losses_total", model="limited", reason="killed") == 2
        assert "stays down" in server.log()
    finally:
        await callers.close()


def test_children_end_with_a_server_that_is_killed(tmp_path):
    with kills.ServerProcess(kills.document(idempotent=False), folder=tmp_path) as server:
        assert len(kills.children(server.process.pid)) == 2
        assert kills.ends_with_the_server(server)


pytestmark = [pytest.mark.kills, pytest.mark.slow]
