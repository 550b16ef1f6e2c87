"""The executor and a server that refuses, lies, hangs or is gone."""

import asyncio
import contextlib
import json
import time

import numpy as np
import pytest
from aiohttp import web

from batcher.clock import SECOND
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import Batch, ExecutionError, LoadContext
from batcher.executors.http import HttpExecutor

X = np.array([[1, 2], [3, 4]], np.float32)


def context(options, **more):
    return LoadContext("contract", "1", 0, "cpu", 8, options, **more)


@pytest.fixture
async def load():
    """A function that loads the executor; closed at the end."""
    loaded = []

    async def load(options, **more):
        executor = HttpExecutor()
        await executor.load(context(options, **more))
        loaded.append(executor)
        return executor

    yield load
    for executor in loaded:
        await executor.close()


def batch(**more):
    return Batch({"X": X}, len(X), **more)


async def failure_of(executor, **more):
    with pytest.raises(ExecutionError) as caught:
        await executor.execute(batch(**more))
    return caught.value


async def test_connections_are_kept_and_used_again(load, v1, server):
    executor = await load(v1)
    server.peers.clear()
    for _ in range(5):
        await executor.execute(batch())
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("answer", "cause", "text"),
    [
        (web.Response(status=429, headers={"Retry-After": "2"}), "overloaded", "HTTP 429"),
        (web.json_response({"error": "loading"}, status=503), "unavailable", "loading"),
        (web.json_response({"error": "no float"}, status=400), "input", "no float"),
        (web.Response(status=500, text="<html>"), "unknown", "HTTP 500"),
        (web.Response(status=302, headers={"Location": "/x"}), "unavailable", "HTTP 302"),
        (web.Response(status=204), "unavailable", "HTTP 204"),
        (web.Response(text="{"), "unknown", "not JSON"),
        (web.Response(body=bytes(2000)), "unknown", "larger than 1000 bytes"),
        (web.Response(headers={"Content-Encoding": "gzip"}, body=b"x"), "unknown", "compressed"),
    ],
)
async def test_refusals_and_wrong_answers(load, v1, server, answer, cause, text):
    executor = await load({**v1, "max_answer": "1kB"})
    server.answers["/v1/models/contract:predict"] = lambda *_: answer

    error = await failure_of(executor)

    assert (error.cause, text in str(error)) == (cause, True), error
    assert error.retry_after_ns == (2 * SECOND if answer.status == 429 else None)


async def test_an_answer_without_a_length_is_bounded_too(load, v1, server):
    executor = await load({**v1, "max_answer": "1kB"})

    async def endless(request, _body):
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(500))
        except ConnectionError:
            return answer

    server.answers["/v1/models/contract:predict"] = endless
    assert "larger than" in str(await failure_of(executor))


async def test_a_connection_that_breaks_off_is_unavailable(load, v1, server):
    executor = await load(v1)

    async def half(request, _body):
        answer = web.StreamResponse(headers={"Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b"half")
        request.transport.abort()
        return answer

    server.answers["/v1/models/contract:predict"] = half
    assert (await failure_of(executor)).cause == "unavailable"
    server.answers["/v1/models/contract:predict"] = lambda request, _: request.transport.abort()
    assert (await failure_of(executor)).cause == "unavailable"


def raw_answer(document):
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("together", [True, False])
async def test_what_was_not_asked_for_answers_no_other_batch(load, together):
    strays = []

    async def serve(reader, writer):
        async with asyncio.TaskGroup():
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET"):
                    writer.write(raw_answer({"ready": True}))
                    continue
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                rows = json.loads(await reader.readexactly(length))["instances"]
                writer.write(raw_answer({"predictions": [[2 * x for x in row] for row in rows]}))
                stray = raw_answer({"predictions": [[666, 666]] * 2})
                if together:
                    writer.write(stray)
                else:
                    strays.append((writer, stray))

    async def quietly(reader, writer):
        with contextlib.suppress(BaseExceptionGroup, ConnectionError):
            await serve(reader, writer)
        writer.close()

    listening = await asyncio.start_server(quietly, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    tensor = {"datatype": "FP32", "shape": [-1, 2]}
    executor = await load(
        {
            "url": f"http://127.0.0.1:{port}",
            "protocol": "v1",
            "inputs": [{"name": "X", **tensor}],
            "outputs": [{"name": "Y", **tensor}],
        }
    )
    for number in range(3):
        result = await executor.execute(Batch({"X": X + number}, 2))
        np.testing.assert_array_equal(result.outputs["Y"], 2 * (X + number))
        for writer, stray in strays:
            writer.write(stray)
            await writer.drain()
        strays.clear()
        for _ in range(10):  # turns of the loop, by which the executor's side has read it
            await asyncio.sleep(0)
    listening.close()


async def test_a_server_that_is_gone_is_unavailable(load, v1, server):
    executor = await load(v1)
    server.close()
    assert (await failure_of(executor)).cause == "unavailable"  # on the connection that was kept
    error = await failure_of(executor)
    assert error.cause == "unavailable"
    assert str(error).startswith(f"the neighbor {server.url}: no connection: ")


async def hang(*_):
    await asyncio.Event().wait()


async def test_a_batch_that_is_cancelled_closes_its_connection(load, v1, server):
    executor = await load(v1)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hangs(*_):
        loop.call_soon_threadsafe(started.set)
        await hang()

    server.answers["/v1/models/contract:predict"] = hangs
    running = asyncio.create_task(executor.execute(batch()))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(server.ended.acquire, timeout=5), "the server was not told"


async def test_no_batch_outlives_its_deadline(load, v1, server):
    executor = await load(v1)
    server.answers["/v1/models/contract:predict"] = hang
    error = await failure_of(executor, deadline_ns=time.monotonic_ns())
    assert error.cause == "unavailable"
    assert "deadline" in str(error)


async def test_headers_of_the_options_and_of_callers_are_sent_and_no_others(
    load, v1, server, tmp_path
):
    token = tmp_path / "token"
    token.write_text("secret\n")
    options = {
        **v1,
        "metadata": {"x-fixed": "1", "authorization": {"file": str(token), "prefix": "Bearer "}},
        "forward_metadata": ["traceparent", "x-user"],
    }
    executor = await load(options)
    await executor.execute(batch(metadata={"traceparent": "00-1", "x-user": "me"}))

    headers = {name.lower(): value for name, value in server.seen[-1][2].items()}
    assert headers["x-fixed"] == "1"
    assert headers["authorization"] == "Bearer secret"
    assert (headers["traceparent"], headers["x-user"]) == ("00-1", "me")
    assert set(headers) == {
        "host", "x-fixed", "authorization", "traceparent", "x-user", "accept",
        "accept-encoding", "content-type", "content-length",
    }  # fmt: skip


async def test_a_server_that_repeats_its_headers_tells_no_caller_of_them(load, v1, server):
    executor = await load({**v1, "metadata": {"authorization": "Bearer abcdefgh"}})
    path = server.seen[-1][1].removesuffix("/ready") + ":predict"
    server.answers[path] = lambda *_: web.json_response({"error": "what is abcdefgh?"}, status=401)
    error = await failure_of(executor)
    assert "what is ***?" in str(error)
    assert error.cause == "unavailable"
    rows = [{"error": "abcdefgh"}, {"Y": [1, 2], "N": [3]}]
    server.answers[path] = lambda *_: web.json_response({"predictions": rows})
    assert (await executor.execute(batch())).row_errors == {0: "***"}


async def test_a_header_that_cannot_be_sent_fails_its_request(load, v1, server):
    executor = await load({**v1, "forward_metadata": ["x-user"]})
    server.seen.clear()
    assert (await failure_of(executor, metadata={"x-user": "a\r\nx-evil: 1"})).cause == "input"
    assert not server.seen


async def test_parameters_that_are_forwarded(load, v2, server):
    executor = await load({**v2, "forward_parameters": ["temperature"]})
    await executor.execute(batch(parameters={"temperature": 0.5}))
    assert server.posted()[-1]["parameters"] == {"temperature": 0.5}


async def test_large_batches_and_answers_go_through_threads(load, v1):
    executor = await load(v1)
    x = np.random.default_rng(1).standard_normal((9_000, 2)).astype(np.float32)
    result = await executor.execute(Batch({"X": x}, len(x)))
    np.testing.assert_array_equal(result.outputs["Y"], 2 * x)


async def test_a_version_and_another_name_are_in_the_path(load, v2, server):
    for path in [*server.answers]:
        moved = path.replace("contract", "a%2Fb/versions/3")
        server.answers[moved] = server.answers.pop(path)
    served = {path.replace("%2F", "/"): answer for path, answer in server.answers.items()}
    server.answers |= served
    executor = await load({**v2, "model": "a/b", "version": "3"})
    await executor.execute(batch())


async def test_a_model_that_is_not_ready_is_waited_for(v1, v2, server):
    server.answers["/v1/models/contract"] = lambda *_: {"name": "contract", "ready": "False"}
    with pytest.raises(BackendUnavailable, match="not ready"):
        await HttpExecutor().load(context(v1))
    server.answers["/v2/models/contract/ready"] = lambda *_: web.Response(status=400)
    with pytest.raises(BackendUnavailable, match="HTTP 400"):
        await HttpExecutor().load(context(v2))


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({"inputs": [], "outputs": []}, ModelLoadError),
        ({"inputs": 1}, ModelLoadError),
        (web.Response(text="x"), ModelLoadError),
        (web.Response(status=404), BackendUnavailable),
        (web.Response(status=500), BackendUnavailable),
        (web.Response(status=401), ModelLoadError),
    ],
)
async def test_metadata_that_is_of_no_use(v2, server, metadata, kind):
    server.answers["/v2/models/contract"] = lambda *_: metadata
    with pytest.raises(kind) as caught:
        await HttpExecutor().load(context(v2))
    assert type(caught.value) is kind


async def test_an_input_of_all_rows_has_no_place_in_v1(v1):
    with pytest.raises(ModelLoadError, match="all rows"):
        await HttpExecutor().load(context(v1, batched={"X": False}))


async def test_without_aiohttp_the_load_says_what_to_install(v1, monkeypatch):
    def gone(name):
        raise ImportError("No module named 'aiohttp'")

    monkeypatch.setattr("batcher.executors.http.executor.importlib.import_module", gone)
    with pytest.raises(ModelLoadError, match="pip install aiohttp"):
        await HttpExecutor().load(context(v1))


async def watched(executor, reports):
    """The executor's watch as a task, and a function that waits for its next report."""
    news = asyncio.Queue()

    def report(why):
        if not reports or reports[-1] != why:
            reports.append(why)
            news.put_nowait(why)

    return asyncio.create_task(executor.watch(report)), news


async def test_readiness_is_watched_and_another_model_is_loaded_again(load, v2, server):
    executor = await load({**v2, "health_interval": "10ms"})
    task, news = await watched(executor, [])
    assert not await news.get()

    server.answers["/v2/models/contract/ready"] = lambda *_: web.Response(status=503)
    assert "HTTP 503" in await news.get()
    server.answers["/v2/models/contract/ready"] = lambda *_: web.Response()
    assert not await news.get()

    tensor = {"name": "X", "datatype": "FP64", "shape": [-1, 2]}
    server.answers["/v2/models/contract"] = lambda *_: {"inputs": [tensor], "outputs": [tensor]}
    await asyncio.wait_for(task, 10)


async def test_a_server_that_does_not_answer_is_not_ready(load, v1, server):
    executor = await load({**v1, "health_interval": "10ms", "health_timeout": "20ms"})
    server.answers["/v1/models/contract"] = hang
    task, news = await watched(executor, [""])
    assert "does not answer" in await news.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
