"""A real server with PyTorch models: padded requests of several lengths in batches of certain sizes."""

import asyncio

import grpc
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

import torch

from batcher.protocol import INFERENCE, inference, methods
from batcher.testing.messages import infer_request, output_arrays
from batcher.testing.server import ServerFailedError, ServerProcess

pytestmark = pytest.mark.slow

PADDING = [{"input": "IDS", "axis": 1, "value": 0, "buckets": [4, 8]}]
TABLE = np.arange(10, dtype=np.float32).reshape(5, 2)


def entry(options, name="m", **rest):
    batching = {"max_batch_size": 8, "policy": "fixed", "max_queue_delay": "20ms"}
    return {"name": name, "executor": "torch", "options": options, "batching": batching} | rest


def ask(address, model, arrays):
    """The answers or errors of requests that are sent at once, in their order."""

    async def ask():
        async with grpc.aio.insecure_channel(address) as channel:
            method = methods(INFERENCE)["ModelInfer"]
            call = channel.unary_unary(
                method.path,
                request_serializer=inference.ModelInferRequest.SerializeToString,
                response_deserializer=inference.ModelInferResponse.FromString,
            )
            calls = [call(infer_request(model, each), timeout=60) for each in arrays]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            return [e if isinstance(e, Exception) else output_arrays(e) for e in ended]

    return asyncio.run(ask())


def ids(rng, rows, length):
    return {"IDS": rng.integers(0, 5, (rows, length))}


@pytest.fixture(scope="module")
def server(tmp_path_factory, models_in):
    """A server with a program, with two instances of a factory, and with one of certain sizes."""
    folder = tmp_path_factory.mktemp("models")
    models = models_in(folder)
    inputs = [{"name": "IDS", "datatype": "INT64", "shape": ["rows", "seq"]}]
    outputs = [{"name": "EMBEDDED", "datatype": "FP32", "shape": ["rows", "seq", 2]}]
    exported = models.exported_lookup(inputs=inputs, outputs=outputs)
    made = models.lookup(threads={"intra_op": 1})
    entries = [
        entry(exported, "exported", padding=PADDING),
        entry(made, "made", padding=PADDING, instances=2),
        entry(made, "sized", padding=PADDING),
    ]
    entries[-1]["batching"] |= {"batch_sizes": [1, 3, 8]}
    with ServerProcess({"models": entries}, folder=folder) as server:
        yield server


@pytest.mark.parametrize("name", ["exported", "made", "sized"])
def test_every_length_and_number_of_rows_is_answered(server, name):
    rng = np.random.default_rng(1)
    sent = [ids(rng, rows, length) for rows in (1, 2, 5) for length in range(1, 9)]
    for request, answer in zip(sent, ask(server.grpc, name, sent), strict=True):
        np.testing.assert_array_equal(answer["EMBEDDED"], TABLE[request["IDS"]])


def test_a_bad_value_fails_its_own_request_alone(server):
    good, bad = {"IDS": np.full((1, 4), 3)}, {"IDS": np.full((1, 4), 77)}
    first, failed, last = ask(server.grpc, "made", [good, bad, good])
    for answer in (first, last):
        np.testing.assert_array_equal(answer["EMBEDDED"], TABLE[good["IDS"]])
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "index out of range in self" in failed.details()


def test_a_pickle_stops_the_start_with_the_remedy(models, tmp_path):
    torch.save(models.Affine(), tmp_path / "model.pt")
    config = {"models": [entry({"path": "model.pt"})]}
    with (
        pytest.raises(ServerFailedError, match="is a pickle"),
        ServerProcess(config, folder=tmp_path),
    ):
        pass
