"""What providers for GPUs are told; none of it needs one."""

from pathlib import Path

import pytest

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, TensorSpec
from batcher_onnxruntime.devices import (
    CUDA,
    TENSORRT,
    InputRange,
    batch_sizes,
    gpu_options,
    graph_problem,
    input_ranges,
    output_shape,
    profile_options,
)
from batcher_onnxruntime.options import OnnxRuntimeOptions
from batcher_onnxruntime.providers import ProviderError, requested_providers

IDS = TensorSpec("IDS", "INT64", (-1, -1), dims=("rows", "seq"))
MASK = TensorSpec("MASK", "INT64", (-1, -1), dims=("rows", "seq"))
IMAGE = TensorSpec("IMAGE", "FP32", (-1, 3, 224, 224))
BIAS = TensorSpec("BIAS", "FP32", (4,), batched=False)
LOGITS = TensorSpec("LOGITS", "FP32", (-1, -1, 2), dims=("rows", "seq", None))
BUCKETS = {"IDS": {1: (16, 128)}, "MASK": {1: (16, 128)}}


def options(**given):
    return OnnxRuntimeOptions.model_validate({"path": "m.onnx", **given})


def context(max_batch_size=8, *, sizes=(), buckets=None):
    return LoadContext(
        "m", "1", 0, "cuda:1", max_batch_size, {}, batch_sizes=sizes, buckets=buckets or {}
    )


def told(given, name, device="cuda:1"):
    asked = requested_providers(given, device, Path("/models"))
    return next(dict(each.options) for each in asked if each.name == name)


def test_memory_is_limited_and_grows_as_the_options_say():
    given = options(providers=["cuda"], memory={"limit": "4GiB", "extend": "exact"})
    assert told(given, CUDA) == {
        "device_id": "1",
        "gpu_mem_limit": str(4 << 30),
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert gpu_options(options(), "CPUExecutionProvider", Path()) == {}


def test_options_of_a_provider_go_before_what_others_mean():
    given = options(
        providers=["cuda"],
        memory={"limit": "4GiB"},
        provider_options={"cuda": {"gpu_mem_limit": 1, "device_id": 0}},
    )
    assert told(given, CUDA) == {"device_id": "0", "gpu_mem_limit": "1"}


def test_tensorrt_keeps_engines_and_timings_in_the_folder():
    given = options(providers=["tensorrt", "cuda"], engine_cache="engines")
    assert told(given, TENSORRT) == {
        "device_id": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/models/engines",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/models/engines",
    }
    assert told(given, CUDA) == {"device_id": "1"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"memory": {"limit": "1GiB"}}, "memory.limit"),
        ({"memory": {"extend": "exact"}}, "memory.extend"),
        ({"providers": ["cuda"], "engine_cache": "x"}, "engine_cache"),
    ],
)
def test_settings_that_no_provider_reads_are_refused(given, named):
    with pytest.raises(ProviderError, match=f"option {named}: got .* in option providers"):
        requested_providers(options(**given), "cpu")


@pytest.mark.parametrize(
    ("sizes", "fixed", "expected"),
    [((), None, ()), ((1, 4), None, (1, 4)), ((1, 4), 4, (4,)), ((), 8, (8,))],
)
def test_batch_sizes_are_those_of_the_file_or_of_the_configuration(sizes, fixed, expected):
    assert batch_sizes(context(sizes=sizes), fixed) == expected


def test_a_profile_holds_all_batch_sizes_and_buckets():
    ranges = input_ranges((IDS, IMAGE, BIAS), context(buckets=BUCKETS), ())
    assert ranges == [
        InputRange("IDS", (1, 16), (8, 128)),
        InputRange("IMAGE", (1, 3, 224, 224), (8, 3, 224, 224)),
        InputRange("BIAS", (4,), (4,)),
    ]
    assert profile_options(ranges) == {
        "trt_profile_min_shapes": "IDS:1x16,IMAGE:1x3x224x224,BIAS:4",
        "trt_profile_opt_shapes": "IDS:8x128,IMAGE:8x3x224x224,BIAS:4",
        "trt_profile_max_shapes": "IDS:8x128,IMAGE:8x3x224x224,BIAS:4",
    }
    (only,) = input_ranges((IMAGE,), context(), (2, 4))
    assert (only.least[0], only.most[0]) == (2, 4)


def test_an_axis_of_any_length_has_no_profile():
    assert input_ranges((IDS,), context(), ()) == "axis 1 of input 'IDS' may have any length"
    no_rows = TensorSpec("X", "FP32", (-1, 4))
    assert "axis 0 of input 'X'" in input_ranges((no_rows,), context(0), ())


GRAPHS = {"providers": ["cuda"], "cuda_graphs": True}


@pytest.mark.parametrize(
    ("given", "where", "inputs", "outputs", "problem"),
    [
        (GRAPHS, context(sizes=(1, 8)), (IMAGE,), (TensorSpec("Y", "FP32", (-1, 9)),), ""),
        (GRAPHS, context(sizes=(8,), buckets=BUCKETS), (IDS, MASK), (LOGITS,), ""),
        (GRAPHS, context(), (IMAGE,), (), "set batching.batch_sizes"),
        (GRAPHS, context(sizes=(8,)), (IDS,), (LOGITS,), "set padding for it"),
        (GRAPHS, context(0), (IMAGE,), (), "without a batch axis"),
        (
            GRAPHS,
            context(sizes=(8,)),
            (IMAGE,),
            (TensorSpec("Y", "FP32", (-1, -1)),),
            "axis 1 of output 'Y' has no length",
        ),
        (
            GRAPHS,
            context(sizes=(8,)),
            (TensorSpec("X", "BF16", (-1, 2)),),
            (),
            "bfloat16 or text (X)",
        ),
        ({"cuda_graphs": True}, context(sizes=(8,)), (IMAGE,), (), "without cuda"),
        (
            GRAPHS | {"providers": ["tensorrt", "cuda"]},
            context(sizes=(8,)),
            (IMAGE,),
            (),
            "with tensorrt",
        ),
        (GRAPHS | {"io_binding": False}, context(sizes=(8,)), (IMAGE,), (), "io_binding: false"),
    ],
)
def test_graphs_need_known_shapes(given, where, inputs, outputs, problem):
    found = graph_problem(options(**given), where, inputs, outputs, None)
    assert (problem in found) if problem else found == ""
    assert not found or found.startswith("option cuda_graphs: ")


def test_graphs_of_a_file_with_fixed_rows_need_no_sizes():
    assert graph_problem(options(**GRAPHS), context(), (IMAGE,), (), 8) == ""
    assert gpu_options(options(**GRAPHS), CUDA, Path())["enable_cuda_graph"] == "1"


def test_output_shapes_follow_from_names():
    shapes = {"IDS": (4, 16)}
    assert output_shape(LOGITS, 4, (IDS,), shapes) == (4, 16, 2)
    assert output_shape(TensorSpec("Y", "FP32", (-1, 7)), 4, (IDS,), shapes) == (4, 7)
    assert output_shape(TensorSpec("Y", "FP32", (-1, -1)), 4, (IDS,), shapes) is None


def test_graphs_without_a_gpu_are_refused_when_the_model_loads(models, load):
    with pytest.raises(ModelLoadError, match="cuda_graphs: got true without cuda"):
        load(models.matmul(), cuda_graphs=True)
