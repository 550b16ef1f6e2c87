"""Child processes are killed, stopped and crash under load. What must hold: `bench/load/kills.py`."""

import itertools
import os
import signal
from pathlib import Path

import kills
import pytest

ROUNDS = 20
"""About three seconds each."""


PATIENT = {"execute_timeout": "5s", "health": {"interval": "1s", "timeout": "2s"}}


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    """The times of the benchmark are those of a machine with nothing else to do."""
    monkeypatch.setattr(kills, "DEADLINES_S", (20.0, 30.0, 40.0))
    monkeypatch.setattr(kills, "ALLOWANCE_S", 10.0)
    monkeypatch.setattr(kills, "QUICK_S", 10.0)


def test_nothing_is_lost_but_the_batches_and_nothing_is_left(serve):
    kinds = tuple(itertools.islice(itertools.cycle(kills.KINDS), ROUNDS - 6))
    server = serve(kills.document(idempotent=False, **PATIENT))
    result = kills.asyncio.run(kills.rounds(server, len(kinds), kinds))
    assert not result.problems
    assert not [check for check, held in result.checks().items() if not held]


def test_idempotent_requests_of_lost_batches_are_answered(serve):
    kinds = ("SIGKILL", "SIGSTOP", "exit", "SIGKILL", "crash", "SIGKILL")
    server = serve(kills.document(idempotent=True, **PATIENT))
    result = kills.asyncio.run(kills.rounds(server, len(kinds), kinds))
    assert not result.problems
    assert result.answered >= 0.99
    # Only those in a group with a request that crashes its instance each time.
    assert {e.status for r in result.rounds if r.kind.startswith("SIG") for e in r.ended} == {"OK"}


async def test_a_child_that_was_stopped_while_it_is_idle_is_replaced(serve, scrape, eventually):
    server = serve(kills.document(idempotent=False, **PATIENT))
    [victim, _] = kills.children(server.process.pid)
    os.kill(victim, signal.SIGSTOP)

    async def replaced():
        found = await scrape(server.http)
        return found.sum("batcher_instance_losses_total", reason="hung") == 1

    await eventually(replaced, within_s=60)
    await eventually(lambda: not Path(f"/proc/{victim}").exists(), within_s=60)
    await eventually(lambda: kills.all_up(server.http), within_s=60)


async def test_after_its_restarts_an_instance_stays_down_and_says_why(serve, scrape, eventually):
    server = serve(kills.document(idempotent=False, restart={"limit": 1}))
    callers = kills.Callers(server.grpc)
    try:
        for _ in range(2):
            for victim in kills.children(server.process.pid):
                os.kill(victim, signal.SIGKILL)

            def settled():
                found = kills.readiness(server.http)["models"][0]["instances"]
                return all(each["state"] in {"up", "failed"} for each in found)

            await eventually(lambda: kills.losses(server.http) > 0)
            await eventually(settled, within_s=60)
        report = kills.readiness(server.http)
        assert not report["ready"]
        assert "double" in report["reason"]
        double, calm = report["models"]
        assert {each["state"] for each in double["instances"]} == {"failed"}
        assert "SIGKILL" in double["reason"]
        assert "restart.limit" in double["reason"]
        assert calm["ready"]
        ended = await callers.ask()
        assert (ended.status, "no instance is up" in ended.text) == ("UNAVAILABLE", True)
        assert (await callers.ask(model="calm")).status == "OK"
        found = await scrape(server.http)
        assert found.sum("batcher_instance_state", model="double", state="failed") == 2
        assert found.sum("batcher_instance_losses_total", model="double", reason="killed") == 4
        assert "stays down" in server.log()
    finally:
        await callers.close()


def test_children_end_with_a_server_that_is_killed(tmp_path):
    with kills.ServerProcess(kills.document(idempotent=False), folder=tmp_path) as server:
        assert len(kills.children(server.process.pid)) == 2
        assert kills.ends_with_the_server(server)


pytestmark = pytest.mark.slow
