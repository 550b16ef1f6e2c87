"""The executor and a TorchServe that refuses, lies, hangs or is gone."""

import asyncio
import json
import threading
from contextlib import suppress

import grpc
import numpy as np
import pytest

from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import Batch, ExecutionError, LoadContext
from batcher.executors.torchserve import TorchserveExecutor, safetensors
from batcher.executors.torchserve import executor as module

from . import fake
from .fake import JAVA, RefusalError

X = np.array([[1, 2], [3, 4]], np.float32)
TEXT = {"name": "data", "datatype": "BYTES", "shape": [-1, 1]}


def context(options, **more):
    return LoadContext("contract", "1", 0, "cpu", 8, options, **more)


@pytest.fixture
async def load():
    """A function that loads the executor; closed at the end."""
    loaded = []

    async def load(options, **more):
        executor = TorchserveExecutor()
        metadata = await executor.load(context(options, **more))
        loaded.append(executor)
        executor.metadata = metadata
        return executor

    yield load
    for executor in loaded:
        await executor.close()


def batch(x=X, **more):
    return Batch({"X": x}, len(x), **more)


async def failure_of(executor, **more):
    with pytest.raises(ExecutionError) as caught:
        await executor.execute(batch(**more))
    return caught.value


@pytest.mark.parametrize(
    ("code", "text", "cause"),
    [
        ("UNAVAILABLE", f"Prediction failed{JAVA}", "unknown"),
        ("UNAVAILABLE", "Socket closed", "unavailable"),
        ("INTERNAL", f"Worker died.{JAVA}", "unavailable"),
        (
            "INTERNAL",
            'Model "m" has no worker to serve inference request.\nInternalServerException.()',
            "overloaded",
        ),
        (
            "INTERNAL",
            "Model not found: m\norg.pytorch.serve.archive.model.ModelNotFoundException",
            "unavailable",
        ),
        ("INTERNAL", f"Out of resources{JAVA}", "unknown"),
        ("INTERNAL", "RST_STREAM closed stream", "unavailable"),
        ("INVALID_ARGUMENT", f"no such word{JAVA}", "input"),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 6553500: 7000000", "input"),
        ("RESOURCE_EXHAUSTED", f"later{JAVA}", "overloaded"),
        ("PERMISSION_DENIED", "Token Authorization failed. Token ...", "unavailable"),
    ],
)
async def test_what_statuses_mean(load, given, server, code, text, cause):
    executor = await load(given)

    def refuse(_fields):
        raise RefusalError(grpc.StatusCode[code], text)

    server.answer = refuse
    error = await failure_of(executor)

    assert error.cause == cause
    assert "org.pytorch" not in str(error)
    assert text.split("\n")[0] in str(error)
    assert server.url in str(error)


async def test_a_server_that_repeats_its_headers_tells_no_caller_of_them(load, given, server):
    executor = await load({**given, "metadata": {"authorization": "Bearer abcdefgh"}})

    def refuse(_fields):
        raise RefusalError(grpc.StatusCode.INTERNAL, "what is abcdefgh?")

    server.answer = refuse
    assert "what is ***?" in str(await failure_of(executor))


async def test_a_server_that_is_gone_is_unavailable(load, given, server):
    executor = await load(given)
    server.stop()
    assert (await failure_of(executor)).cause == "unavailable"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "not in the format"),
        (b"\xff" * 8, "not in the format"),
        (b'{"Y": 1}', "not in the format"),
        (safetensors.save({"Y": ("FP32", X)}), "no output 'N'"),
        (
            safetensors.save(
                {"Y": ("FP64", X.astype(float)), "N": ("INT64", np.ones((2, 1), int))}
            ),
            "'Y'.*dtype is 'F64', not F32",
        ),
        (
            safetensors.save({"Y": ("FP32", X[:1]), "N": ("INT64", np.ones((2, 1), int))}),
            r"'Y'.*\[1, 2\].*\[2, 2\]",
        ),
    ],
)
async def test_wrong_answers_say_what_is_wrong(load, given, server, answer, text):
    executor = await load(given)
    server.answer = lambda _fields: answer
    with pytest.raises(ExecutionError, match=text) as caught:
        await executor.execute(batch())
    assert caught.value.cause == "unknown"


@pytest.mark.parametrize(
    ("said", "errors"),
    [('{"1": "no\\nsuch"}', {1: "no such"}), ('{"2": "x"}', None), ("[]", None), ("{", None)],
)
async def test_a_handler_may_name_the_rows_that_failed(load, given, server, said, errors):
    executor = await load({**given, "outputs": [fake.Y]})
    head = json.dumps(
        {
            "__metadata__": {"row_errors": said},
            "Y": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        }
    ).encode()
    server.answer = lambda _fields: len(head).to_bytes(8, "little") + head + X.tobytes()
    if errors is None:
        assert "row_errors" in str(await failure_of(executor))
    else:
        assert (await executor.execute(batch())).row_errors == errors


async def test_rows_of_bytes_are_sent_as_they_are(load, given, server):
    executor = await load({**given, "send": "rows", "inputs": [TEXT], "outputs": [TEXT]})
    server.answer = lambda fields: b"<" + fields["data"] + b">"
    rows = np.array([[b"\xff\x00"], [b""]], object)
    result = await executor.execute(Batch({"data": rows}, 2))
    assert result.outputs["data"].tolist() == [[b"<\xff\x00>"], [b"<>"]]


async def test_of_rows_that_fail_the_worst_says_why(load, given, server):
    executor = await load({**given, "send": "rows", "outputs": [fake.Y]})

    def refuse(fields):
        x = np.frombuffer(fields["X"], np.float32)
        if x[0] == 1:
            raise RefusalError(grpc.StatusCode.INTERNAL, f"Worker died.{JAVA}")
        raise RefusalError(grpc.StatusCode.UNAVAILABLE, f"Prediction failed{JAVA}")

    server.answer = refuse
    assert (await failure_of(executor)).cause == "unavailable"
    server.answer = lambda fields: bytes(4 * int(np.frombuffer(fields["X"], np.float32)[0]))
    assert "equally long" in str(await failure_of(executor))


async def test_parameters_are_fields_of_the_call(load, given, server):
    executor = await load({**given, "forward_parameters": ["t", "b"]})
    await executor.execute(batch(parameters={"t": 0.5, "b": True}))
    assert (server.calls[-1]["t"], server.calls[-1]["b"]) == (b"0.5", b"true")


async def test_a_call_that_is_too_large_is_not_sent(load, given, server):
    executor = await load({**given, "max_message": "100B"})
    assert (await failure_of(executor)).cause == "input"
    assert not server.calls


# Loading


async def test_its_own_batching_must_be_off_for_whole_batches(given, server):
    server.model["batchSize"] = 4
    with pytest.raises(ModelLoadError, match=r"batchSize 4.*100 ms.*allowed: batchSize 1"):
        await TorchserveExecutor().load(context(given))


async def test_and_is_matched_for_rows(load, given, server, caplog):
    server.model["batchSize"] = 4
    executor = await load({**given, "send": "rows", "outputs": [fake.Y]})
    assert executor.metadata.max_batch_size == 4
    assert "maxBatchDelay of 100 ms" in caplog.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clientTimeoutInMills": 5}, "clientTimeoutInMills"),
        ({"batchSize": 200}, "job_queue_size of 100"),
    ],
)
async def test_settings_that_would_lose_calls(given, server, change, text):
    server.model |= change
    with pytest.raises(ModelLoadError, match=text):
        await TorchserveExecutor().load(context({**given, "send": "rows", "outputs": [fake.Y]}))


@pytest.mark.parametrize("answer", ["", "[]", "{}", '[{"modelVersion": "1.0"}]', "[" * 100_000])
async def test_a_description_that_cannot_be_read(given, server, answer):
    server.model = answer
    with pytest.raises(ModelLoadError, match="cannot be read"):
        await TorchserveExecutor().load(context(given))


async def test_a_model_without_workers_is_waited_for(given, server):
    server.model["workers"] = [{"status": "UNLOADED"}]
    with pytest.raises(BackendUnavailable, match="no worker ready"):
        await TorchserveExecutor().load(context(given))


async def test_a_model_that_is_not_there_is_waited_for(given, server):
    server.model = None
    with pytest.raises(BackendUnavailable, match="no model 'contract'"):
        await TorchserveExecutor().load(context(given))


async def test_or_is_registered_with_the_right_numbers(load, given, server):
    server.model = None
    given |= {"archive": "a.mar", "workers": 3, "max_batch_delay": "2ms"}
    await load({**given, "send": "rows", "outputs": [fake.Y]})
    (told,) = [each for each in server.told if each.DESCRIPTOR.name == "RegisterModelRequest"]
    assert (told.url, told.batch_size, told.max_batch_delay, told.initial_workers) == (
        "a.mar", 8, 2, 3,
    )  # fmt: skip


async def test_whole_batches_are_registered_with_a_batch_size_of_one(load, given, server):
    server.model = None
    await load({**given, "archive": "a.mar"})
    assert server.told[0].batch_size == 1


async def test_another_instance_may_have_registered_it_meanwhile(load, given, server):
    server.model, server.registered_meanwhile = None, True
    executor = await load({**given, "archive": "a.mar"})
    await executor.execute(batch())


async def test_workers_are_scaled(load, given, server):
    executor = await load({**given, "workers": 3})
    assert (server.told[0].min_worker, server.told[0].max_worker) == (3, 3)
    assert executor.metadata.properties["workers"] == "3"
    server.told.clear()
    await load({**given, "workers": 3})
    assert not server.told


async def test_without_management_ping_says_whether_it_is_healthy(load, given, server):
    given["management_url"] = None
    await load(given)
    for health in ('{"status": "Unhealthy"}', "[]", "{"):
        server.health = health
        with pytest.raises(BackendUnavailable, match="lacks workers"):
            await TorchserveExecutor().load(context(given))


@pytest.mark.parametrize("change", [{"send": "rows", "outputs": [fake.Y]}, {"encoding": "json"}])
async def test_an_input_of_all_rows_needs_safetensors(given, change):
    with pytest.raises(ModelLoadError, match="all rows"):
        await TorchserveExecutor().load(context({**given, **change}, batched={"X": False}))


# Tokens


def key_file(path, token):
    path.write_text(json.dumps({kind: {"key": token} for kind in ("inference", "management")}))


async def test_tokens_are_read_and_read_again_when_they_are_refused(load, given, server, tmp_path):
    server.token = "first"
    keys = tmp_path / "key_file.json"
    with pytest.raises(BackendUnavailable, match="cannot read"):
        await TorchserveExecutor().load(context({**given, "tokens": str(keys)}))
    keys.write_text("{}")
    with pytest.raises(BackendUnavailable, match="no key file"):
        await TorchserveExecutor().load(context({**given, "tokens": str(keys)}))
    key_file(keys, "wrong")
    with pytest.raises(BackendUnavailable, match="PERMISSION_DENIED"):
        await TorchserveExecutor().load(context({**given, "tokens": str(keys)}))

    key_file(keys, "first")
    executor = await load({**given, "tokens": str(keys)})
    await executor.execute(batch())

    server.token = "second"
    key_file(keys, "the second")
    assert (await failure_of(executor)).cause == "unavailable"
    key_file(keys, "second")
    await executor.execute(batch())


# Cancellation


@pytest.fixture
def held(server):
    """Calls wait for this event, and say so by `begun`."""
    go, begun, answer = threading.Event(), asyncio.Event(), server.answer
    loop = asyncio.get_event_loop()

    def wait(fields):
        loop.call_soon_threadsafe(begun.set)
        go.wait(10)
        return answer(fields)

    server.answer = wait
    go.begun = begun
    yield go
    go.set()


async def test_a_batch_that_is_cancelled_keeps_its_place_until_it_has_ended(load, given, held):
    executor = await load(given)
    running = asyncio.create_task(executor.execute(batch()))
    await held.begun.wait()

    running.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not running.done()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_it_ends_when_it_is_cancelled_again_or_after_a_while(load, given, held, monkeypatch):
    executor = await load(given)
    running = asyncio.create_task(executor.execute(batch()))
    await held.begun.wait()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    monkeypatch.setattr(module, "HOLD_S", 0.001)
    held.begun.clear()
    running = asyncio.create_task(executor.execute(batch()))
    await held.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# Watching


async def watched(executor):
    """The executor's watch as a task, and a queue of what it reports anew."""
    news, reports = asyncio.Queue(), []

    def report(why):
        if not reports or reports[-1] != why:
            reports.append(why)
            news.put_nowait(why)

    return asyncio.create_task(executor.watch(report)), news


async def test_workers_are_watched_and_another_version_is_loaded_again(load, given, server):
    executor = await load({**given, "health_interval": "10ms"})
    task, news = await watched(executor)
    assert not await news.get()
    server.model = {**server.model, "workers": []}
    assert "no worker" in await news.get()

    error = await failure_of(executor)
    assert (error.cause, "no worker" in str(error)) == ("unavailable", True)
    assert not server.calls, "it would have waited there"
    server.model = None
    assert "no model" in await news.get()
    with suppress(ExecutionError):
        await executor.execute(batch())
    assert server.calls, "that says nothing of workers, so it is tried"
    server.model = dict(fake.DESCRIBED)
    assert not await news.get()
    await executor.execute(batch())
    server.model = {**server.model, "modelVersion": "2.0"}
    await asyncio.wait_for(task, 10)


async def test_a_model_that_was_registered_is_registered_again(load, given, server):
    executor = await load({**given, "archive": "a.mar", "health_interval": "10ms"})
    task, _ = await watched(executor)
    server.model = None
    await asyncio.wait_for(task, 10)
    await load({**given, "archive": "a.mar"})
    assert server.told[0].url == "a.mar"


async def test_without_management_ping_is_watched(load, given, server):
    executor = await load({**given, "management_url": None, "health_interval": "10ms"})
    task, news = await watched(executor)
    assert not await news.get()
    server.health = '{"status": "Unhealthy"}'
    assert "lacks workers" in await news.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
