"""However a request ends, nothing of it is left for the garbage collector.

Where requests end by the hundreds each second, their garbage would stop the event loop for
milliseconds at a time, and so make the next ones late.
"""

import asyncio
import gc
import re
from collections import Counter

import grpc
import pytest
from grpc import aio

from batcher.testing import raise_on

REQUESTS = 20
BAD_VALUE = 13.0
OURS = re.compile(r"batcher\.(?!testing)")
FILES = re.compile(r"/batcher/(?!testing/)")
CODES = ("f_code", "cr_code", "ag_code")


def name_of(found):
    """What an object of ours is, or None: an instance, a frame, a coroutine."""
    kind = type(found)
    if OURS.match(str(kind.__module__)):
        return kind.__qualname__
    code = next((getattr(found, each) for each in CODES if hasattr(found, each)), None)
    if code is not None and FILES.search(code.co_filename):
        return f"{kind.__qualname__} of {code.co_qualname}"
    return None


@pytest.fixture
def garbage():
    """A function to what the collector finds of ours, by type, since the last call."""

    def found():
        gc.collect()
        ours = Counter(filter(None, map(name_of, gc.garbage)))
        gc.garbage.clear()
        return ours

    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.disable()
    yield found
    gc.enable()
    gc.set_debug(0)
    gc.garbage.clear()


async def status(call):
    try:
        await call
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def all_ended(application, eventually):
    await eventually(lambda: not application.batcher.unanswered)
    await asyncio.sleep(0.05)


async def played(served, sends, garbage, eventually):
    """The statuses of what is sent, and the garbage that it leaves once the first has warmed up."""
    application, stub = served
    await status(sends(stub))
    await all_ended(application, eventually)
    garbage()
    codes = await asyncio.gather(*[status(sends(stub)) for _ in range(REQUESTS)])
    await all_ended(application, eventually)
    return Counter(codes), garbage()


@pytest.fixture
async def served(start, dial):
    async def make(document):
        application = await start(document)
        return application, await dial(application.grpc.addresses[0])

    return make


async def test_answered_requests(served, hello, request_of, garbage, eventually):
    codes, left = await played(
        await served(hello()), lambda stub: stub.ModelInfer(request_of(1.0)), garbage, eventually
    )
    assert codes == {grpc.StatusCode.OK: REQUESTS}
    assert not left


async def test_requests_refused_for_the_target(served, hello, request_of, garbage, eventually):
    batching = {"target_p99": "100ms", "limit": "target", "max_batch_size": 2}
    document = hello(base="60ms", batching=batching, warmup={"batch_sizes": [1, 2]})
    codes, left = await played(
        await served(document), lambda stub: stub.ModelInfer(request_of(1.0)), garbage, eventually
    )
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] > REQUESTS / 2
    assert not left


async def test_invalid_requests(served, hello, request_of, garbage, eventually):
    codes, left = await played(
        await served(hello()),
        lambda stub: stub.ModelInfer(request_of(1.0, model="unknown")),
        garbage,
        eventually,
    )
    assert codes == {grpc.StatusCode.NOT_FOUND: REQUESTS}
    assert not left


async def test_failed_requests(served, hello, fakes, request_of, garbage, eventually):
    fakes.options["answer"] = raise_on(BAD_VALUE)
    document = hello(executor="fake", options={}, batching={"max_batch_size": 1})
    codes, left = await played(
        await served(document),
        lambda stub: stub.ModelInfer(request_of(BAD_VALUE)),
        garbage,
        eventually,
    )
    assert codes == {grpc.StatusCode.INTERNAL: REQUESTS}
    assert not left


async def test_requests_whose_deadline_passes(served, hello, request_of, garbage, eventually):
    document = hello(base="200ms", batching={"max_batch_size": 1, "policy": "none"})
    codes, left = await played(
        await served(document),
        lambda stub: stub.ModelInfer(request_of(1.0), timeout=0.1),
        garbage,
        eventually,
    )
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED: REQUESTS}
    assert not left


async def test_requests_whose_caller_leaves(served, hello, request_of, garbage, eventually):
    async def gone(stub):
        call = stub.ModelInfer(request_of(1.0))
        await asyncio.sleep(0.02)
        call.cancel()

    document = hello(base="100ms", batching={"max_batch_size": 1})
    codes, left = await played(await served(document), gone, garbage, eventually)
    assert codes == {grpc.StatusCode.OK: REQUESTS}
    assert not left


class TestStreams:
    """However a `ModelStreamInfer` ends."""

    async def test_answered_streams(self, served, hello, request_of, garbage, eventually):
        async def answered(stub):
            call = stub.ModelStreamInfer()
            for _ in range(3):
                await call.write(request_of(1.0))
            await call.done_writing()
            assert len([answer async for answer in call]) == 3

        _, left = await played(await served(hello()), answered, garbage, eventually)
        assert not left

    @pytest.mark.parametrize("order", ["ordered", "any"])
    async def test_cancelled_streams(self, served, hello, request_of, garbage, eventually, order):
        async def cancelled(stub):
            call = stub.ModelStreamInfer(metadata=[("x-batcher-stream-order", order)])
            for _ in range(3):
                await call.write(request_of(1.0))
            await asyncio.sleep(0.02)
            call.cancel()

        document = hello(base="100ms", batching={"max_batch_size": 1})
        _, left = await played(await served(document), cancelled, garbage, eventually)
        assert not left

    async def test_streams_whose_deadline_passes(
        self, served, hello, request_of, garbage, eventually
    ):
        async def expired(stub):
            call = stub.ModelStreamInfer(timeout=0.05)
            await call.write(request_of(1.0))
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        document = hello(base="100ms", batching={"max_batch_size": 1, "policy": "none"})
        _, left = await played(await served(document), expired, garbage, eventually)
        assert not left

    async def test_streams_with_failing_requests(
        self, served, hello, fakes, request_of, garbage, eventually
    ):
        async def failed(stub):
            call = stub.ModelStreamInfer()
            await call.write(request_of(BAD_VALUE))
            await call.write(request_of(1.0, model="unknown"))
            await call.done_writing()
            assert all([answer.error_message async for answer in call])

        fakes.options["answer"] = raise_on(BAD_VALUE)
        document = hello(executor="fake", options={}, batching={"max_batch_size": 1})
        _, left = await played(await served(document), failed, garbage, eventually)
        assert not left

    async def test_streams_that_the_server_ends(
        self, served, hello, request_of, garbage, eventually
    ):
        application, stub = await served(hello())

        async def ended(stub):
            call = stub.ModelStreamInfer()
            await call.write(request_of(1.0))
            await call.read()
            application.grpc.end_streams()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE

        _, left = await played((application, stub), ended, garbage, eventually)
        assert not left
