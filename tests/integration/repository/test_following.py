"""A real server follows a directory of models while requests flow."""

import asyncio
import contextlib

import grpc
import pytest

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def requests_flowing(client, name):
    """Sends requests one after the other; every answer is kept, and an error fails the test."""
    answers, ends = [], asyncio.Event()

    async def flow():
        while not ends.is_set():
            answers.append(await client.factor(name))

    flows = [asyncio.create_task(flow()) for _ in range(4)]
    yield answers
    ends.set()
    await asyncio.gather(*flows)


async def test_versions_come_break_and_go_while_requests_flow(
    repository, serve_repository, client, eventually, scrape
):
    repository.write("scaled", 1, 1)
    server = serve_repository()
    calls = await client(server)
    assert await calls.factor("scaled") == 1

    async def answers(factor):
        return await calls.factor("scaled") == factor

    async def gone(version):
        return ("scaled", version) not in await calls.index()

    async with requests_flowing(calls, "scaled") as seen:
        repository.write("scaled", 2, 2)
        await eventually(lambda: answers(2))
        await eventually(lambda: gone("1"))

        repository.write("scaled", 3, contents=b"broken")

        async def said():
            state, reason = (await calls.index()).get(("scaled", "3"), ("", ""))
            return state == "UNAVAILABLE" and "is not a complete ONNX model" in reason

        await eventually(said)
        assert await answers(2)
        assert not await calls.is_ready("scaled", "3")
        metrics = await scrape(server.http)
        assert metrics.sum("batcher_model_repository_broken_models") == 1
        assert "is not a complete ONNX model" in server.log()

        repository.write("scaled", 3, 3)
        await eventually(lambda: answers(3))
        repository.write("scaled", 3, 3.5)  # the same version with other contents
        await eventually(lambda: answers(3.5))

        (repository.path / "scaled" / "3").rename(repository.path / "scaled" / "3.old")
        await eventually(lambda: answers(2))
    assert set(seen) == {1, 2, 3, 3.5}
    metrics = await scrape(server.http)
    assert metrics.sum("batcher_model_repository_broken_models") == 0
    assert metrics.sum("batcher_model_repository_readable") == 1

    (repository.path / "scaled").rename(repository.path.with_name("away"))

    async def unknown():
        try:
            await calls.factor("scaled")
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(unknown)


async def test_a_directory_of_all_sorts(repository, serve_repository, client, fetch):
    """What a directory of Triton's has besides ONNX models: reasons for those, and the others served."""
    repository.write("scaled", 1, 4)
    repository.write("bare", 7, 5, config=None)
    repository.write("python", 1, contents=b"", config='backend: "python"')
    repository.write("plan", 1, contents=b"", config='platform: "tensorrt_plan" max_batch_size: 4')
    ensemble = 'platform: "ensemble" ensemble_scheduling { step { model_name: "scaled" } }'
    repository.write("pipeline", 1, contents=b"", config=ensemble)
    repository.write("wrong", 1, 1, config="max_batch_size: many")
    repository.write(
        "decoupled", 1, 1, config=repository.config + "model_transaction_policy { decoupled: true }"
    )
    repository.write("damaged", 1, contents=b"no model")
    server = serve_repository()
    calls = await client(server)
    assert (await calls.factor("scaled"), await calls.factor("bare", "7")) == (4, 5)
    assert (await fetch(server.http, "/readyz"))[0] == 200
    index = await calls.index()
    for name, version, why in (
        ("python", "1", "Triton's Python backend is not there"),
        ("plan", "1", "TensorRT plans have no executor"),
        ("pipeline", "1", "an ensemble of other models"),
        ("damaged", "1", "is not a complete ONNX model"),
        ("wrong", "", "config.pbtxt: line 1: Couldn't parse integer: many"),
        ("decoupled", "1", "decoupled models are not supported"),
    ):
        state, reason = index[name, version]
        assert state == "UNAVAILABLE"
        assert why in reason
    assert (await calls.index(ready=True)).keys() == {("scaled", "1"), ("bare", "7")}


async def test_a_directory_that_goes_away_leaves_everything_served(
    repository, serve_repository, client, eventually, scrape, fetch
):
    repository.write("scaled", 1, 1)
    server = serve_repository()
    calls = await client(server)
    repository.path.rename(repository.path.with_name("away"))

    async def readable(value):
        return (await scrape(server.http)).sum("batcher_model_repository_readable") == value

    await eventually(lambda: readable(0))
    assert await calls.factor("scaled") == 1
    assert (await fetch(server.http, "/readyz"))[0] == 200
    repository.path.with_name("away").rename(repository.path)
    await eventually(lambda: readable(1))
    assert await calls.factor("scaled") == 1


async def test_load_calls(repository, serve_repository, client):
    repository.write("scaled", 1, 1)
    repository.write("other", 1, 10)
    calls = await client(serve_repository(control="explicit", load=["scaled"]))
    assert await calls.factor("scaled") == 1
    assert await calls.index() == {("scaled", "1"): ("READY", ""), ("other", ""): ("", "")}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calls.factor("other")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    await calls.load("other")
    assert await calls.factor("other") == 10
    repository.write("other", 2, 20)
    await calls.load("other")
    assert await calls.factor("other") == 20

    repository.write("other", 3, contents=b"broken")
    with pytest.raises(grpc.aio.AioRpcError, match="is not a complete ONNX model"):
        await calls.load("other")
    assert await calls.factor("other") == 20

    await calls.unload("other")
    assert not await calls.is_ready("other")
    with pytest.raises(grpc.aio.AioRpcError):
        await calls.factor("other")


async def test_a_model_in_the_call(repository, serve_repository, client, eventually):
    calls = await client(serve_repository(control="explicit"))
    padding = b"x" * (3 << 20)  # larger than other calls may be
    files = {"4/model.onnx": repository.model(8), "4/parts/padding.bin": padding}
    await calls.load("new", config='{"backend": "onnxruntime", "max_batch_size": 8}', files=files)
    assert await calls.factor("new") == 8
    assert await calls.index(ready=True) == {("new", "4"): ("READY", "")}
    with pytest.raises(grpc.aio.AioRpcError, match="allowed: <version>/<name>"):
        await calls.load("new", files={"4/../../../evil": b""})
    await calls.unload("new")
    assert not await calls.is_ready("new")
    assert await calls.index(ready=True) == {}
