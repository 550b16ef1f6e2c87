"""One directory for two servers: the executor `kserve` sends every model of it on to the other."""

import grpc
import pytest

pytestmark = pytest.mark.slow


async def test_the_directory_of_a_neighbor_is_served_through_it(
    repository, serve, client, dial, eventually, tmp_path
):
    repository.write("scaled", 1, 3)
    following = {"path": str(repository.path), "poll_interval": "100ms"}
    neighbor = serve({"server": {"admin": []}, "model_repository": following})
    defaults = {"executor": "kserve", "options": {"url": neighbor.grpc}}
    section = following | {"defaults": defaults}
    admin = f"unix:{tmp_path}/front.sock"
    front = serve({"server": {"admin": [admin]}, "model_repository": section})
    calls = await client(front)
    assert await calls.factor("scaled") == 3

    async def answers(factor):
        """While the neighbor has changed already and the front has not, calls are refused."""
        try:
            return await calls.factor("scaled") == factor
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    repository.write("scaled", 2, 4)
    await eventually(lambda: answers(4))
    assert await calls.factor("scaled", "2") == 4
