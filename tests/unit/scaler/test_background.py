"""Background work of the scaler that raises goes on."""

import asyncio
import contextlib

import pytest

from batcher.protocol import KEDA
from batcher.scaler import app
from batcher.scaler.app import Scaler, keep_running
from batcher.scaler.config import parse_scaler_config
from batcher.server.services.health import SERVER

CONFIG = """
listen: {grpc: ["127.0.0.1:0"]}
fleets:
  - name: ranker
    replicas: {static: ["127.0.0.1:1"]}
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Nothing waits for a clock."""
    monkeypatch.setattr(app, "AGAIN_S", 0.0)
    monkeypatch.setattr(app, "CERTIFICATES_S", 0.0)


async def run_until(event, name, work):
    task = asyncio.ensure_future(keep_running(name, work))
    await event.wait()
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_what_raises_is_called_again_and_logged_once(caplog):
    calls = []
    enough = asyncio.Event()

    async def work():
        calls.append(1)
        if len(calls) == 5:
            enough.set()
        raise ValueError("a defect" if len(calls) < 4 else "another one")

    await run_until(enough, "the work", work)
    assert [record.getMessage() for record in caplog.records] == [
        "internal error: the work has ended, and begins again"
    ] * 2


async def test_health_is_told_again_after_an_error_and_is_not_serving_meanwhile(monkeypatch):
    scaler = Scaler(parse_scaler_config(CONFIG))
    answers = ["", ValueError("a defect"), "not yet", ""]
    told = []
    enough = asyncio.Event()

    def not_ready():
        answer = answers.pop(0) if answers else ""
        if isinstance(answer, Exception):
            raise answer
        return answer

    def heard(service, serving):
        told.append((service, serving))
        if len(told) == 8:
            enough.set()

    monkeypatch.setattr(scaler, "not_ready", not_ready)
    monkeypatch.setattr(scaler._health, "set", heard)
    await run_until(enough, "health", scaler._watch_health)
    states = [serving for service, serving in told[:8] if service == SERVER]
    assert states == [True, False, False, True]
    assert states == [serving for service, serving in told[:8] if service == KEDA]


async def test_certificates_that_cannot_be_looked_at_leave_the_look_at_them_alive(monkeypatch):
    scaler = Scaler(parse_scaler_config(CONFIG))
    (fleet,) = scaler.fleets.values()
    looks = []
    enough = asyncio.Event()

    def refresh():
        looks.append(1)
        if len(looks) == 3:
            enough.set()
        raise OSError("no such file")

    monkeypatch.setattr(fleet, "refresh_certificates", refresh)
    await run_until(enough, "certificates", lambda: app._watch_certificates(fleet))
