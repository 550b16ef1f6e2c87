"""A server in front of another one: the executor `kserve` with batcher itself as the neighbor."""

import asyncio

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import BatchResult, ExecutionError, LoadContext
from batcher.executors.kserve import KserveExecutor

CODE = grpc.StatusCode


@pytest.fixture
def front(start):
    """A function that starts a server in front of a neighbor's address."""

    async def make(url, *, options=None, **model):
        entry = {"name": "hello", "executor": "kserve", "options": {"url": url, **(options or {})}}
        return await start({"models": [entry | model]})

    return make


def value_of(answer):
    return np.frombuffer(answer.raw_output_contents[0], np.float32)


async def test_requests_pass_through_both(start, front, hello, dial, request_of):
    neighbor = await start(hello())
    application = await front(neighbor.grpc.addresses[0])
    stub = await dial(application.grpc.addresses[0])
    answers = await asyncio.gather(*(stub.ModelInfer(request_of(i, rows=2)) for i in range(20)))
    for place, answer in enumerate(answers):
        assert (value_of(answer) == 2 * place).all()
        assert answer.model_name == "hello"


async def test_a_unix_socket(start, front, hello, dial, request_of, tmp_path):
    await start(hello(server={"grpc": [f"unix:{tmp_path}/s"]}))
    application = await front(f"unix:{tmp_path}/s")
    stub = await dial(application.grpc.addresses[0])
    assert (value_of(await stub.ModelInfer(request_of(3))) == 6).all()


async def test_only_the_wrong_request_of_a_batch_fails(start, front, fakes, dial, request_of):
    def refuse_nan(batch):
        if np.isnan(batch.inputs["X"]).any():
            raise ExecutionError("a value is no number", cause="input")
        return BatchResult({"Y": 2 * batch.inputs["X"]})

    fakes.options["answer"] = refuse_nan
    quick = {"warmup": {"batch_sizes": []}}
    neighbor = await start({"models": [{"name": "hello", "executor": "fake"} | quick]})
    batching = {"policy": "fixed", "max_batch_size": 8, "max_queue_delay": "50ms"}
    application = await front(neighbor.grpc.addresses[0], batching=batching)
    stub = await dial(application.grpc.addresses[0])
    values = [1.0, 2.0, float("nan"), 4.0]
    ends = await asyncio.gather(
        *(stub.ModelInfer(request_of(value)) for value in values), return_exceptions=True
    )
    assert ends[2].code() is CODE.INVALID_ARGUMENT
    assert "a value is no number" in ends[2].details()
    for value, answer in zip(values, ends, strict=True):
        if not np.isnan(value):
            assert (value_of(answer) == 2 * value).all()


async def test_a_batch_that_is_too_large_for_the_neighbor_is_divided(
    start, front, hello, dial, request_of
):
    neighbor = await start(hello(server={"max_message": "300B"}))
    batching = {"policy": "fixed", "max_batch_size": 32, "max_queue_delay": "50ms"}
    quick = {"warmup": {"batch_sizes": []}}
    application = await front(neighbor.grpc.addresses[0], batching=batching, **quick)
    stub = await dial(application.grpc.addresses[0])
    answers = await asyncio.gather(*(stub.ModelInfer(request_of(i, rows=4)) for i in range(8)))
    for place, answer in enumerate(answers):
        assert (value_of(answer) == 2 * place).all()


@pytest.mark.parametrize(
    ("cause", "code"),
    [("overloaded", CODE.RESOURCE_EXHAUSTED), ("unavailable", CODE.UNAVAILABLE)],
)
async def test_a_refusal_is_passed_on_with_its_hint(
    start, front, fakes, dial, request_of, cause, code
):
    def refuse(batch):
        raise ExecutionError("not now", cause=cause, retry_after_ns=7_000_000_000)

    fakes.options["answer"] = refuse
    quick = {"warmup": {"batch_sizes": []}}
    neighbor = await start({"models": [{"name": "hello", "executor": "fake"} | quick]})
    application = await front(neighbor.grpc.addresses[0], **quick)
    stub = await dial(application.grpc.addresses[0])
    with pytest.raises(aio.AioRpcError) as raised:
        await stub.ModelInfer(request_of())
    assert raised.value.code() is code
    assert "not now" in raised.value.details()
    assert dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"] == "7000"
    (fake,) = fakes
    assert [call.method for call in fake.calls].count("execute") == 1


@pytest.fixture
async def load():
    """A function that loads an executor for an address, which is closed at the end."""
    loaded = []

    async def load(url, **options):
        executor = KserveExecutor()
        options = {"url": url, "connect_timeout": "10s", **options}
        await executor.load(LoadContext("hello", "1", 0, "cpu", 8, options))
        loaded.append(executor)

    yield load
    for executor in loaded:
        await executor.close()


@pytest.fixture
async def secured(start, hello, tls_files):
    """A function that starts a neighbor with TLS, mutual or not, and returns its address."""

    async def make(*, mutual=False):
        tls = dict(tls_files) if mutual else {k: tls_files[k] for k in ("cert", "key")}
        application = await start(hello(server={"tls": tls}))
        return application.grpc.addresses[0]

    return make


async def test_tls(secured, load, tls_files):
    await load(await secured(), tls={"ca": tls_files["client_ca"]})


async def test_tls_with_an_authority_that_did_not_sign(secured, load, stranger, tmp_path):
    (tmp_path / "ca.pem").write_bytes(stranger.ca.cert)
    with pytest.raises(BackendUnavailable, match="UNAVAILABLE"):
        await load(await secured(), tls={"ca": str(tmp_path / "ca.pem")})


async def test_without_tls_at_a_neighbor_that_has_it(secured, load):
    with pytest.raises(BackendUnavailable, match="UNAVAILABLE"):
        await load(await secured())


async def test_mutual_tls(secured, load, tls_files, client, tmp_path):
    (tmp_path / "client.pem").write_bytes(client.cert)
    (tmp_path / "client.key").write_bytes(client.key)
    address = await secured(mutual=True)
    ca = {"ca": tls_files["client_ca"]}
    with pytest.raises(BackendUnavailable):
        await load(address, tls=ca)
    pair = {"cert": str(tmp_path / "client.pem"), "key": str(tmp_path / "client.key")}
    await load(address, tls=ca | pair)


async def test_the_name_in_the_certificate(secured, load, tls_files):
    address, ca = await secured(), {"ca": tls_files["client_ca"]}
    await load(address, tls=ca | {"server_name": "localhost"})
    with pytest.raises(BackendUnavailable):
        await load(address, tls=ca | {"server_name": "another.example"})


async def test_a_file_of_tls_that_is_not_there(load):
    with pytest.raises(ModelLoadError, match=r"options.tls: cannot read /none: No such file"):
        await load("127.0.0.1:1", tls={"ca": "/none"})


async def test_renewed_files_have_the_model_loaded_again(secured, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.cert)
    executor = KserveExecutor()
    options = {
        "url": await secured(),
        "connect_timeout": "10s",
        "health_interval": "5ms",
        "tls": {"ca": str(ca)},
    }
    await executor.load(LoadContext("hello", "1", 0, "cpu", 8, options))
    reports = asyncio.Queue()
    watching = asyncio.ensure_future(executor.watch(reports.put_nowait))
    assert await reports.get() == ""
    (tmp_path / "new").write_bytes(ca.read_bytes())
    (tmp_path / "new").replace(ca)
    async with asyncio.timeout(20):
        await watching
    await executor.close()


async def test_a_neighbor_that_refuses_everything_does_not_fill_the_log(
    start, front, fakes, dial, request_of, caplog
):
    def refuse(batch):
        raise ExecutionError("not now", cause="unavailable")

    fakes.options["answer"] = refuse
    quick = {"warmup": {"batch_sizes": []}}
    neighbor = await start({"models": [{"name": "hello", "executor": "fake"} | quick]})
    address = neighbor.grpc.addresses[0]
    application = await front(address, **quick)
    stub = await dial(application.grpc.addresses[0])
    for _ in range(3):
        with pytest.raises(aio.AioRpcError, match="not now"):
            await stub.ModelInfer(request_of())
    lines = [each for each in caplog.messages if f"a batch failed: the neighbor {address}" in each]
    assert len(lines) == 1
