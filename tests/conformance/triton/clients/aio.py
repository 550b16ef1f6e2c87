"""`tritonclient.grpc.aio` against the server: python aio.py ADDRESS."""

import asyncio
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from checks import Checks
from tensors import differing, of_every_type, pair, row, types_inputs

check = Checks()


def doubled(result, first=0):
    """Whether `Y` is twice what `row(first)` sent."""
    return bool(
        np.array_equal(result.as_numpy("Y"), 2 * (np.arange(16, dtype=np.float32)[None] + first))
    )


@check
async def live(client):
    return await client.is_server_live()


@check
async def ready(client):
    return await client.is_server_ready()


@check
async def model_ready(client):
    return await client.is_model_ready("hello")


@check
async def server_metadata(client):
    return await client.get_server_metadata(as_json=True)


@check
async def model_metadata(client):
    return await client.get_model_metadata("types", as_json=True)


@check
async def model_config(client):
    return (await client.get_model_config("hello", as_json=True))["config"]


@check
async def repository_index(client):
    return (await client.get_model_repository_index(as_json=True))["models"]


@check
async def statistics(client):
    await client.infer("hello", [row()])
    return (await client.get_inference_statistics("hello", as_json=True))["model_stats"]


@check
async def infer_together(client):
    results = await asyncio.gather(*(client.infer("hello", [row(n)]) for n in range(64)))
    return {
        "right": sum(doubled(result, number) for number, result in enumerate(results)),
        "largest_batch": max(int(result.as_numpy("BATCH")[0, 0]) for result in results),
    }


@check
async def every_type(client):
    arrays = of_every_type()
    return differing(arrays, await client.infer("types", types_inputs(arrays)))


@check
async def requested_outputs(client):
    only = [triton.InferRequestedOutput("SUM")]
    result = await client.infer("sums", pair([1, 2, 3, 4], [1, 1, 1, 1]), outputs=only)
    return [output.name for output in result.get_response().outputs]


@check
async def stream(client):
    async def requests():
        for number in range(30):
            yield {"model_name": "hello", "inputs": [row(number)], "request_id": str(number)}

    ids, right = [], 0
    async for result, error in client.stream_infer(requests()):
        if error is not None:
            raise error
        ids.append(result.get_response().id)
        right += doubled(result, int(ids[-1]))
    return {"ids": ids, "right": right}


@check
async def stream_with_an_error(client):
    async def requests():
        for model in ("hello", "missing", "hello"):
            yield {"model_name": model, "inputs": [row()]}

    return [
        error.message() if error else doubled(result)
        async for result, error in client.stream_infer(requests())
    ]


@check
async def client_timeout(client):
    result = await client.infer("slow", [row(columns=1)], client_timeout=0.1)
    return result.get_response(as_json=True)


@check
async def cancelled_request(client):
    """Of two requests in one batch, one goes away; the other is answered."""
    gone = asyncio.create_task(client.infer("slow", [row(columns=1)]))
    stays = asyncio.create_task(client.infer("slow", [row(columns=1)]))
    await asyncio.sleep(0.1)
    gone.cancel()
    return list((await stays).as_numpy("Y").shape)


@check
async def unknown_model(client):
    return (await client.infer("missing", [row()])).get_response(as_json=True)


@check
async def wrong_columns(client):
    return (await client.infer("hello", [row(columns=3)])).get_response(as_json=True)


@check
async def load_model(client):
    return await client.load_model("hello")


async def main():
    async with triton_aio.InferenceServerClient(sys.argv[1]) as client:
        await check.run_async(client)


if __name__ == "__main__":
    asyncio.run(main())
