"""What code of the executor `python` does wrong costs its own request, on a thread and in a child."""

import asyncio

import grpc
import numpy as np
import pytest

from batcher.testing.messages import infer_request, output_arrays

pytestmark = pytest.mark.slow

SOURCE = """
import os
import sys

from batcher.executors.python import RowError

print("imported")


def f(x: float) -> float:
    if x == 1:
        print("hello of one")
    elif x == 2:
        sys.exit(3)
    elif x == 3:
        raise RuntimeError("y" * 10_000_000)
    elif x == 4:
        raise RowError("four is\\nwrong")
    elif x == 5:
        os._exit(7)
    return x + 0.5
"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_mistakes_end_their_own_requests(serve, dial, eventually, tmp_path, isolation):
    (tmp_path / "given.py").write_text(SOURCE)
    model = {"name": "f", "executor": "python", "options": {"target": "given.py:f"}}
    batching = {"policy": "fixed", "max_batch_size": 8, "max_queue_delay": "50ms"}
    server = serve({"models": [model | {"batching": batching, "isolation": isolation}]})
    stub = await dial(server.grpc)

    async def ask(value):
        try:
            answer = await stub.ModelInfer(infer_request("f", {"x": np.array([float(value)])}))
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()
        return output_arrays(answer)["output"].tolist()

    # All at once, so that they share batches.
    values = [0, 1, 2, 3, 4, 6]
    answers = dict(zip(values, await asyncio.gather(*map(ask, values)), strict=True))
    assert [answers[value] for value in (0, 1, 6)] == [[0.5], [1.5], [6.5]]
    assert answers[4][0] == "INVALID_ARGUMENT"
    assert "four is wrong" in answers[4][1]
    assert {answers[2][0], answers[3][0]} == {"INTERNAL"}
    assert "SystemExit: 3" in answers[2][1]
    assert "yyy..." in answers[3][1]
    assert len(answers[3][1]) < 1000
    await eventually(lambda: "hello of one" in server.log())
    assert "imported" in server.log()
    if isolation == "process":
        assert (await ask(5))[0] == "UNAVAILABLE"

        async def is_back():
            return await ask(0) == [0.5]

        await eventually(is_back)
        assert "exit code 7" in server.log()
