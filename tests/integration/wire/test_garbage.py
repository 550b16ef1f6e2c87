"""Whatever becomes of a request, nothing of it is left for the garbage collector.

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
POISON = 13.0
OURS = re.compile(r"batcher\.(?!testing)")


@pytest.fixture
def garbage():
    """A function to what the collector finds of ours, by type, since the last call."""

    def found():
        gc.collect()
        kinds = [type(each) for each in gc.garbage]
        ours = Counter(kind.__qualname__ for kind in kinds if OURS.match(str(kind.__module__)))
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


async def test_of_what_is_answered(served, hello, request_of, garbage, eventually):
    codes, left = await played(
        await served(hello()), lambda stub: stub.ModelInfer(request_of(1.0)), garbage, eventually
    )
    assert codes == {grpc.StatusCode.OK: REQUESTS}
    assert not left


async def test_of_what_is_refused_as_late(served, hello, request_of, garbage, eventually):
    batching = {"target_p99": "100ms", "max_batch_size": 2}
    document = hello(base="60ms", batching=batching, warmup={"batch_sizes": [1, 2]})
    codes, left = await played(
        await served(document), lambda stub: stub.ModelInfer(request_of(1.0)), garbage, eventually
    )
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] > REQUESTS / 2
    assert not left


async def test_of_what_is_wrong(served, hello, request_of, garbage, eventually):
    codes, left = await played(
        await served(hello()),
        lambda stub: stub.ModelInfer(request_of(1.0, model="nobody")),
        garbage,
        eventually,
    )
    assert codes == {grpc.StatusCode.NOT_FOUND: REQUESTS}
    assert not left


async def test_of_what_fails(served, hello, fakes, request_of, garbage, eventually):
    fakes.options["answer"] = raise_on(POISON)
    document = hello(executor="fake", options={}, batching={"max_batch_size": 1})
    codes, left = await played(
        await served(document),
        lambda stub: stub.ModelInfer(request_of(POISON)),
        garbage,
        eventually,
    )
    assert codes == {grpc.StatusCode.INTERNAL: REQUESTS}
    assert not left


async def test_of_callers_whose_deadline_passes(served, hello, request_of, garbage, eventually):
    document = hello(base="200ms", batching={"max_batch_size": 1, "policy": "none"})
    codes, left = await played(
        await served(document),
        lambda stub: stub.ModelInfer(request_of(1.0), timeout=0.1),
        garbage,
        eventually,
    )
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED: REQUESTS}
    assert not left


async def test_of_callers_who_leave(served, hello, request_of, garbage, eventually):
    async def gone(stub):
        call = stub.ModelInfer(request_of(1.0))
        await asyncio.sleep(0.02)
        call.cancel()

    document = hello(base="100ms", batching={"max_batch_size": 1})
    codes, left = await played(await served(document), gone, garbage, eventually)
    assert codes == {grpc.StatusCode.OK: REQUESTS}
    assert not left
