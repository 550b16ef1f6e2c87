import logging

import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, InvalidArgument

from batcher.errors import ModelLoadError
from batcher.executor import option_problems
from batcher_onnxruntime.executor import OnnxRuntimeExecutor, _cause
from batcher_onnxruntime.messages import one_line
from batcher_onnxruntime.options import OnnxRuntimeOptions
from batcher_onnxruntime.providers import (
    ProviderError,
    RequestedProvider,
    requested_providers,
    unused,
)

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))

without_cuda = pytest.mark.skipif(
    CUDA in ort.get_available_providers(), reason="this onnxruntime has CUDA"
)
with_azure = pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers()
    or not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"),
    reason="needs a provider that registers and runs nothing",
)


def options(**given):
    return OnnxRuntimeOptions.model_validate({"path": "m.onnx", **given})


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "CUDA", CUDA])
def test_provider_that_is_not_there_is_refused(models, load, name):
    with pytest.raises(ModelLoadError) as caught:
        load(models.matmul(), providers=[name, "cpu"])
    message = str(caught.value)
    assert "option providers: cuda is not in this onnxruntime" in message
    assert "allow_fallback" in message
    assert "the package onnxruntime-gpu has it" in message


@pytest.mark.parametrize("device", ["cuda:0", "gpu1", "GPU", "cuda"])
def test_a_device_that_is_a_gpu_by_its_name_needs_a_provider_for_it(models, load, device):
    with pytest.raises(ModelLoadError) as caught:
        load(models.matmul(), device=device)
    assert f"option providers: the device {device} is a GPU by its name" in str(caught.value)
    _, metadata = load(models.matmul(), device=device, allow_fallback=True)
    assert "GPU by its name" in metadata.properties["fallback"]
    load(models.matmul(), device="gpus-are-elsewhere")


@without_cuda
def test_allowed_fallback_is_in_the_metadata_and_the_log(models, load, caplog):
    with caplog.at_level(logging.WARNING):
        _, metadata = load(models.matmul(), providers=["cuda"], allow_fallback=True)
    assert metadata.properties["fallback"].startswith("cuda is not in this onnxruntime")
    assert metadata.properties["providers"] == "cpu"
    assert "(allow_fallback): cuda" in caplog.text


@with_azure
def test_provider_that_runs_nothing_is_refused(models, load):
    with pytest.raises(ModelLoadError, match="azure can run no part of this model"):
        load(models.matmul(), providers=["azure", "cpu"])
    _, metadata = load(models.matmul(), providers=["azure", "cpu"], allow_fallback=True)
    assert metadata.properties["fallback"] == "azure can run no part of this model"
    assert metadata.properties["nodes"] == "cpu 1"


@with_azure
def test_second_provider_may_be_idle(models, load):
    _, metadata = load(models.matmul(), providers=["cpu", "azure"])
    assert "fallback" not in metadata.properties


def test_use_is_judged_by_what_is_registered_and_assigned(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    assert not unused([CUDA, CPU], [CUDA, CPU], {CUDA: 9, CPU: 1})
    assert not unused([CUDA, CPU], [CUDA, CPU], None)
    assert not unused([TENSORRT, CUDA], [TENSORRT, CUDA, CPU], {TENSORRT: 1})
    assert unused([CUDA, CPU], [CPU], {CPU: 9}).startswith("cuda could not start")
    assert unused([TENSORRT, CUDA], [TENSORRT, CUDA, CPU], {CUDA: 9}).startswith("tensorrt can run")
    assert not unused([CPU], [CPU], {})


def test_providers_keep_their_order_and_get_their_options():
    asked = requested_providers(
        options(
            providers=["tensorrt", "CUDAExecutionProvider", "cpu", "cuda"],
            provider_options={"cuda": {"gpu_mem_limit": 1024, "do_copy_in_default_stream": True}},
        ),
        "gpu",
    )
    assert asked == [
        RequestedProvider(TENSORRT, {}),
        RequestedProvider(CUDA, {"gpu_mem_limit": "1024", "do_copy_in_default_stream": "1"}),
        RequestedProvider(CPU, {}),
    ]


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        ("cuda:1", {}, {"device_id": "1"}),
        ("gpu0", {}, {"device_id": "0"}),
        ("gpu", {}, {}),
        ("cuda:1", {"device_id": 3}, {"device_id": "3"}),
    ],
)
def test_numbered_device_sets_the_device_id_unless_an_option_does(device, given, expected):
    asked = requested_providers(
        options(providers=["cuda", "cpu"], provider_options={"cuda": given}), device
    )
    assert asked == [RequestedProvider(CUDA, expected), RequestedProvider(CPU, {})]


def test_unknown_provider_is_refused_with_the_nearest(models, load):
    with pytest.raises(ModelLoadError) as caught:
        load(models.matmul(), providers=["cudda"], provider_options={"coreml": {}, "cpo": {}})
    assert 'option providers[0]: got "cudda"; allowed: ' in str(caught.value)
    assert "did you mean cuda?" in str(caught.value)
    assert "option provider_options.cpo" in str(caught.value)


def test_unknown_provider_is_found_without_loading(models, tmp_path):
    given = {"path": "gone.onnx", "providers": ["cudda"]}
    (problem,) = option_problems(OnnxRuntimeExecutor.options, given, tmp_path, files=True)
    assert problem[0] == ("providers", 0)


def test_options_of_a_provider_that_is_not_asked_for_are_refused():
    with pytest.raises(ProviderError, match="got cuda; allowed: a name in option providers"):
        requested_providers(options(provider_options={"cuda": {}}), "cpu")


def test_failure_of_the_provider_is_a_device_error():
    assert _cause(EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : gone")) == "device"
    assert _cause(RuntimeError("CUDA failure 700: an illegal memory access")) == "device"
    assert _cause(RuntimeError("odd")) == "unknown"
    node = "Non-zero status code returned while running MatMul node. Status Message: "
    assert _cause(RuntimeError(f"{node}Failed to allocate memory for 9 bytes")) == "memory"
    assert _cause(RuntimeError(f"{node}CUDA failure 2: out of memory")) == "memory"
    assert _cause(InvalidArgument(f"{node}std::bad_alloc")) == "memory"
    assert _cause(MemoryError()) == "memory"
    assert _cause(RuntimeError(f"{node}index 9 is out of bounds")) == "input"


def test_long_and_many_lined_errors_become_one_short_line():
    line = one_line(
        RuntimeError(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code\n returned by "
            "/src/core/providers/cuda/cuda_call.cc:129 std::conditional_t<F, void, Status> "
            "onnxruntime::CudaCall(ERRTYPE, const char *, int) CUDA failure 2: out of memory "
            + "x"
            * 1000
        )
    )
    assert line.startswith("Non-zero status code returned by CUDA failure 2: out of memory")
    assert len(line) == 300
    assert one_line(RuntimeError()) == "RuntimeError"
