"""A real server records its event log, and the log replays."""

import asyncio
import errno
import fcntl
import json
import re
import shutil
import signal
import subprocess
import sys

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.core.commands import Outcome, Settle
from batcher.errors import StartupError
from batcher.executor import ExecutionError
from batcher.journal import read_log
from batcher.simulation.logs.replay import replay

WAIT_S = 20


@pytest.fixture
def document(hello, tmp_path):
    """A function that makes the document of a server that records."""

    def make(*, admin="127.0.0.1:0", flight=None, **model):
        made = hello(server={"admin": [admin]}, batching={"target_p99": "200ms"}, **model)
        made["journal"] = {"folder": str(tmp_path / "journal"), "segment_duration": "200ms"}
        made["flight_recorder"] = {
            "folder": str(tmp_path / "incidents"),
            "min_interval": "1ms",
            **(flight or {}),
        }
        return made

    return make


async def ask(stub, request_of, count, **fields):
    """Many requests at a time; some of the callers leave."""
    calls = [stub.ModelInfer(request_of(n, **fields), timeout=WAIT_S) for n in range(count)]
    for call in calls[::7]:
        call.cancel()
    return await asyncio.gather(*calls, return_exceptions=True)


def identical(path):
    """The segments of a log that replays."""
    log = read_log(path)
    assert log.faults == []
    for place in range(len(log.segments)):
        found = replay(log.segments[place:])
        assert found.first is None
        assert found.faults == []
    return log


@pytest.mark.slow
async def test_what_a_server_records_replays_from_every_segment(
    serve, document, dial, request_of, tmp_path, scrape, eventually
):
    server = serve(document(base="2ms"))
    stub = await dial(server.grpc)
    for _ in range(5):
        await ask(stub, request_of, 60)

    async def written():
        return (await scrape(server.http)).sum("batcher_journal_written_bytes_total") > 5000

    await eventually(written)
    metrics = await scrape(server.http)
    assert metrics.sum("batcher_flight_recorder_memory_bytes") > 5000
    assert metrics.sum("batcher_journal_lost_segments_total") == 0
    assert server.stop() == 0
    log = identical(tmp_path / "journal")
    assert sum(segment.requests for segment in log.segments) >= 250
    ends = [
        command.outcome
        for segment in log.segments
        for step in segment.steps()
        for command in step.commands
        if type(command) is Settle
        for _ in command.ids
    ]
    assert len(ends) == sum(segment.requests for segment in log.segments)
    assert Outcome.OK in ends
    command = [sys.executable, "-m", "batcher", "replay", str(tmp_path / "journal"), "--json"]
    replayed = await asyncio.to_thread(
        subprocess.run, [*command, "--policy", "none"], capture_output=True, check=True
    )
    *_, result, recorded, _, none = (json.loads(line) for line in replayed.stdout.splitlines())
    assert result["replay"]["identical"]
    assert none["requests"] == recorded["requests"] == len(ends)


@pytest.mark.slow
async def test_a_signal_writes_a_file_that_replays(
    serve, document, dial, request_of, tmp_path, eventually
):
    made = document(base="${MODEL_BASE}", flight={"min_interval": "1m"})
    server = serve(made, environ={"MODEL_BASE": "1.234567ms"})
    await ask(await dial(server.grpc), request_of, 50)
    server.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: list((tmp_path / "incidents").glob("*-signal.batcherlog")))
    (path,) = (tmp_path / "incidents").glob("*.batcherlog")
    log = identical(path)
    assert sum(segment.requests for segment in log.segments) >= 40
    assert "batcher_requests_total{" in log.incident.metrics
    # The environment stays out of it.
    assert '"base": "${MODEL_BASE}"' in log.incident.config
    assert b"1.234567ms" not in path.read_bytes()
    # Once a minute, and the process lives on.
    server.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: "flight_recorder.min_interval" in server.log())
    assert len(list((tmp_path / "incidents").glob("*.batcherlog"))) == 1


@pytest.mark.slow
async def test_a_signal_to_a_server_without_a_recorder_is_logged(serve, hello, eventually):
    server = serve(hello())
    server.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: "no flight recorder is configured" in server.log())


async def write(stub, detail=""):
    request = protocol.admin.WriteFlightRecordRequest(detail=detail)
    return (await stub.WriteFlightRecord(request, timeout=WAIT_S)).path


@pytest.fixture
async def served(start, document, dial):
    """A function to (application, data stub, stub of the admin service)."""

    async def make(made):
        application = await start(made)
        data = await dial(application.grpc.addresses[0])
        return application, data, await dial(application.grpc.admin_addresses[0], protocol.ADMIN)

    return make


async def test_an_admin_call_writes_a_file_that_replays(served, document, request_of, tmp_path):
    application, data, admin = await served(document())
    await ask(data, request_of, 50)
    path = await write(admin, "x" * 1000)
    assert re.fullmatch(rf"{tmp_path}/incidents/incident-\S+-request\.batcherlog", path)
    log = identical(tmp_path / path)
    assert (log.incident.reason, log.incident.detail) == ("request", "x" * 256)
    assert len(log.segments) >= 1
    sample = application.registry.get_sample_value
    assert sample("batcher_incidents_total", {"reason": "request"}) == 1


EXTREMES = {
    "timeout": [{"int64_param": value} for value in (1, 2**62, 2**63 - 1)],
    "priority": [
        *({"int64_param": value} for value in (1, 2**63 - 1)),
        *({"uint64_param": value} for value in (2**63, 2**64 - 1)),
    ],
    "beam": [
        *({"int64_param": value} for value in (-(2**63), 2**63 - 1)),
        {"uint64_param": 2**64 - 1},
        {"double_param": float("inf")},
        {"double_param": float("nan")},
        {"string_param": "\U0010ffff" * 16_000},
    ],
}
CALLS = [
    {"timeout": 3e9},
    {"metadata": [("x-batcher-priority", "9" * 20)]},
    {"metadata": [("x-batcher-tenant", "t" * 256)]},
]


async def test_any_text_of_a_caller_can_be_recorded(
    served, document, fakes, request_of, tmp_path, eventually
):
    """Extreme values of all that callers choose, in requests that wait while segments begin."""
    made = document(executor="fake", options={})
    made["models"][0]["batching"] = {"policy": "none"}
    made["journal"]["segment_duration"] = "1ms"
    application, data, admin = await served(made)
    hang = fakes[0].hang_next()
    calls = []
    for name, values in EXTREMES.items():
        for value in values:
            request = request_of(id="i" * 4096)
            for choice, number in value.items():
                setattr(request.parameters[name], choice, number)
            calls.append(data.ModelInfer(request))
    calls += [data.ModelInfer(request_of(), **options) for options in CALLS]
    await eventually(lambda: application.batcher.unanswered >= len(calls) - 1)
    await data.ServerLive(protocol.inference.ServerLiveRequest())

    path = await write(admin)
    hang.release()
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(answer, aio.AioRpcError) for answer in answers) == 1  # timeout: 1 us
    assert len(identical(tmp_path / path).segments) >= 3
    assert application.recording.statistics().lost_segments == 0


async def test_a_flight_record_says_what_calls_have_changed(served, document, tmp_path):
    _, _, admin = await served(document())
    changes = {"batching.target_p99": "125ms"}
    await admin.UpdateSettings(
        protocol.admin.UpdateSettingsRequest(model="hello", changes=changes), timeout=WAIT_S
    )
    log = identical(tmp_path / await write(admin))
    assert log.incident.changes == ("hello/1 batching.target_p99: 125ms",)


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_admin_call_too_soon_after_another_is_refused(served, document):
    _, _, admin = await served(document(flight={"min_interval": "1m"}))
    await write(admin)
    error = await refusal(write(admin))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "flight_recorder.min_interval" in error.details()
    pushback_ms = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
    assert 50_000 < pushback_ms <= 60_000


async def test_a_server_without_a_recorder_says_what_to_configure(served, document):
    made = document()
    del made["flight_recorder"], made["journal"]
    _, _, admin = await served(made)
    error = await refusal(write(admin))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "flight_recorder.folder" in error.details()


async def test_a_file_that_cannot_be_written_is_an_error_with_a_reason(served, document, tmp_path):
    _, _, admin = await served(document())
    shutil.rmtree(tmp_path / "incidents")
    error = await refusal(write(admin))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "the flight record cannot be written: No such file" in error.details()


async def test_a_data_listener_has_no_admin_service(served, document, dial):
    application, _, _ = await served(document())
    data = await dial(application.grpc.addresses[0], protocol.ADMIN)
    assert (await refusal(write(data))).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
async def test_an_executor_that_fails_is_an_incident(
    served, document, fakes, request_of, tmp_path, eventually
):
    made = document(executor="fake", options={})
    _, data, _ = await served(made)
    fakes[0].fail_next(ExecutionError("the device is gone", cause="device"))
    error = await refusal(data.ModelInfer(request_of(), timeout=WAIT_S))
    assert "the device is gone" in error.details()
    folder = tmp_path / "incidents"
    await eventually(lambda: list(folder.glob("*-executor_failure.batcherlog")))
    (path,) = folder.glob("*.batcherlog")
    log = identical(path)
    assert log.incident.detail == "hello/1: 1 requests failed"


async def test_a_folder_that_cannot_be_locked_costs_only_the_crash_log(
    served, document, request_of, tmp_path, monkeypatch, caplog
):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    _, data, admin = await served(document())
    assert f"{tmp_path}/incidents: No locks available; a crash of this server" in caplog.text
    await data.ModelInfer(request_of(), timeout=WAIT_S)
    path = tmp_path / await write(admin)
    assert sum(segment.requests for segment in identical(path).segments) == 1
    assert list((tmp_path / "incidents").iterdir()) == [path]


@pytest.mark.parametrize("section", ["journal", "flight_recorder"])
async def test_a_folder_that_cannot_be_used_is_fatal_at_start(start, hello, section, tmp_path):
    (tmp_path / "file").write_text("")
    made = hello() | {section: {"folder": str(tmp_path / "file")}}
    with pytest.raises(StartupError, match=rf"{section}\.folder: got {tmp_path}/file, File exists"):
        await start(made)
