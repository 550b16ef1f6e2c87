"""The page for Triton users: its example means the same here, and what it names exists."""

import asyncio
import re
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format

from batcher import app, errors, plugins
from batcher.config import WarmupConfig, parse_config
from batcher.config.explain import section_at
from batcher.config.root import Config
from batcher.executor import ModelMetadata, TensorSpec
from batcher.protocol import INFERENCE, Stub, inference, model_config
from batcher.protocol.services import methods
from batcher.server.status import CODES
from batcher.telemetry import families
from batcher.testing import FakeExecutor

PAGE = (Path(__file__).parents[3] / "docs" / "coming-from-triton.md").read_text(encoding="utf-8")
METADATA = ModelMetadata(
    "onnxruntime_onnx",
    (TensorSpec("data_0", "FP32", (-1, 3, 224, 224)),),
    (TensorSpec("fc6_1", "FP32", (-1, 1000)),),
)


TOP = {"server", "devices", "model_repository"}


def example(name):
    (found,) = re.findall(
        rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL
    )
    return found


def rows(heading):
    """The first cells of the table below a heading, without backticks."""
    (body,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    cells = [line.split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip("| ") for cell in row] for row in cells[1:]]


@pytest.fixture
async def stub(monkeypatch):
    """A client of the page's example, were the file of the model as Triton has it."""
    monkeypatch.setattr(plugins, "find_executor", lambda _: lambda: FakeExecutor(metadata=METADATA))
    text = example("batcher.yaml").replace("0.0.0.0:8001", "127.0.0.1:0")
    config = parse_config(text.replace("0.0.0.0:8002", "null"), "page", {})
    cold = config.models[0].model_copy(update={"warmup": WarmupConfig(batch_sizes=())})
    async with (
        app.running(config.model_copy(update={"models": (cold,)})) as application,
        grpc.aio.insecure_channel(application.grpc.addresses[0]) as channel,
    ):
        yield Stub(channel, INFERENCE)


async def test_the_example_says_the_same_to_clients(stub):
    answered = (await stub.ModelConfig(inference.ModelConfigRequest(name="densenet"))).config
    theirs = text_format.Parse(example("config.pbtxt"), model_config.ModelConfig())
    for field in ("name", "platform", "max_batch_size", "input", "output", "dynamic_batching"):
        assert getattr(answered, field) == getattr(theirs, field), field
    assert list(answered.version_policy.specific.versions) == [1]
    (ours,), (group,) = answered.instance_group, theirs.instance_group
    assert (ours.count, ours.kind, ours.gpus) == (group.count, group.kind, group.gpus)


async def test_the_calls_that_it_says_are_refused_are(stub):
    refused = {
        "SystemSharedMemoryRegister": "UNIMPLEMENTED",
        "CudaSharedMemoryRegister": "UNIMPLEMENTED",
        "TraceSetting": "UNIMPLEMENTED",
        "LogSettings": "UNIMPLEMENTED",
        "RepositoryModelLoad": "PERMISSION_DENIED",
        "RepositoryModelUnload": "PERMISSION_DENIED",
    }
    for name, code in refused.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, name)(methods(INFERENCE)[name].request())
        assert caught.value.code().name == code, name
        assert caught.value.details() != "Method not found!", "it says what to do instead"
        assert code in PAGE


async def test_every_call_of_the_protocol_is_answered_or_refused_with_a_reason(stub):
    unary = {name: m for name, m in methods(INFERENCE).items() if m.kind == "unary_unary"}
    assert len(unary) > 15
    calls = (getattr(stub, name)(method.request()) for name, method in unary.items())
    for name, ended in zip(
        unary, await asyncio.gather(*calls, return_exceptions=True), strict=True
    ):
        told = ended.details() if isinstance(ended, grpc.aio.AioRpcError) else "answered"
        assert told not in {"", "Method not found!"}, name


async def test_the_server_is_called_what_it_says(stub):
    assert (await stub.ServerMetadata(inference.ServerMetadataRequest())).name == "triton"


def test_the_codes_of_the_page_are_the_ones_that_are_sent():
    errors_of = {
        "the queue is full": errors.Overloaded,
        "the time in the queue": errors.DeadlineExpired,
        "wrong input": errors.InvalidRequest,
        "unknown model": errors.UnknownModel,
        "a model that is loading": errors.ModelUnavailable,
        "a value that the executor": errors.InputRefused,
        "the executor failed": errors.ExecutionFailed,
    }
    told = rows("Status codes")
    for beginning, error in errors_of.items():
        (row,) = [row for row in told if row[0].startswith(beginning)]
        for cell, style in ((row[1], "triton"), (row[2], "standard")):
            assert cell.split(",")[0] == CODES[style][error].name, (beginning, style)
    assert len(told) == len(errors_of)


def test_the_keys_it_names_exist():
    """A key without a section before it is one of a model."""
    checked = 0
    for row in rows("Keys of `config.pbtxt`"):
        for name in re.findall(r"`([a-z_.\[\]<>]+)(?:: [^`]*)?`", row[1]):
            steps = (
                name.replace("models[].", "")
                .replace(".<name>", ".0")
                .replace("[]", ".0")
                .split(".")
            )
            keys = steps if steps[0] in TOP else ["models", 0, *steps]
            section = section_at(Config, tuple(keys[:-1]))
            if steps[0] != "options" or len(steps) == 1:  # those are the executor's
                assert section is not None, name
                assert keys[-1] in section.model_fields, name
                checked += 1
    assert checked >= 20


def test_the_metrics_it_names_exist():
    known = {family.name for family in families.FAMILIES}
    for name in re.findall(r"`(batcher_\w+)", PAGE):
        family = re.sub(r"_(sum|count|bucket|total)$", "", name)
        assert known & {name, family}, name
    theirs = [cell for row in rows("Metrics") for cell in re.findall(r"`(nv_\w+)", row[0])]
    assert len(theirs) >= 10
