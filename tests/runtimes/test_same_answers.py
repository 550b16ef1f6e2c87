"""One model gives the same answers in every runtime, alone and in mixed batches, however it is isolated.

Each answer is compared with what numpy computes in 64 bits. The tolerance is 1e-5, absolute and relative:
sums of 16 products of 32-bit numbers around 1, in whatever order a runtime adds them.
"""

import asyncio
import urllib.request

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")
pytest.importorskip("openvino", reason="needs OpenVINO: make runtimes runs it")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from grpc import aio
from prometheus_client.parser import text_string_to_metric_families

from batcher.protocol import INFERENCE, Stub
from batcher.testing.messages import infer_request, output_arrays
from batcher.testing.server import ServerProcess

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
RUNTIMES = ("onnxruntime", "torch", "openvino", "python")
SERVERS = {
    "inline": ("inline", ("mlp", "pooled")),
    "thread": ("thread", ("mlp", "pooled")),
    # Each model has a child of its own, which imports its runtime: not too many at once.
    "process-mlp": ("process", ("mlp",)),
    "process-pooled": ("process", ("pooled",)),
}
"""Isolation, and models; each of them in every runtime."""


def model_name(runtime, isolation, name):
    return f"{runtime}-{isolation}-{name}"


@pytest.fixture(scope="module", params=SERVERS)
def server(request, same_models):
    """The isolation, the models, and a server that has them in every runtime."""
    isolation, names = SERVERS[request.param]
    sections = {
        model_name(runtime, isolation, name): same_models.section(
            runtime, name, isolation=isolation
        )
        for runtime in RUNTIMES
        for name in names
    }
    models = [{"name": name, **section} for name, section in sections.items()]
    with ServerProcess({"models": models}, folder=same_models.folder) as process:
        yield isolation, names, process


async def ask(target, model, requests):
    """The outputs of requests that are sent at the same time."""
    async with aio.insecure_channel(target) as channel:
        stub = Stub(channel, INFERENCE)
        answers = await asyncio.gather(
            *(stub.ModelInfer(infer_request(model, inputs)) for inputs in requests)
        )
    return [output_arrays(answer) for answer in answers]


def assert_same(same_models, name, inputs, outputs):
    expected = same_models.answers(name, inputs)
    assert outputs.keys() == expected.keys()
    for output, array in expected.items():
        assert outputs[output].dtype == np.float32
        np.testing.assert_allclose(
            outputs[output], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=output
        )


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_alone_and_in_mixed_batches(server, same_models, runtime):
    isolation, names, process = server
    for name in names:
        await check(process, same_models, name, model_name(runtime, isolation, name))


async def check(process, same_models, name, model):
    rng = np.random.default_rng(7)
    # Rows and lengths of several buckets; some fill a bucket, some are padded.
    requests = [
        same_models.inputs(name, rows, rng, length)
        for rows, length in ((1, 1), (3, 4), (8, 8), (2, 5), (5, 3), (1, 8), (4, 7), (2, 2))
    ]
    for inputs in requests:
        (alone,) = await ask(process.grpc, model, [inputs])
        assert_same(same_models, name, inputs, alone)
    together = await ask(process.grpc, model, 4 * requests)
    for inputs, outputs in zip(4 * requests, together, strict=True):
        assert_same(same_models, name, inputs, outputs)
    batches, answered = await asyncio.to_thread(counted, process.http, model)
    assert answered == len(requests) * 5
    assert batches < answered, "no batch was shared"


def counted(address, model):
    """How many batches of the model were executed since it was ready, and how many requests answered."""

    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {"batcher_batch_rows_count": 0, "batcher_requests_total": 0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in found and sample.labels.get("model") == model:
                found[sample.name] += sample.value
    return tuple(found.values())
