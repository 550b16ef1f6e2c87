"""Metadata, configuration and statistics as messages."""

from batcher.executor import ModelMetadata
from batcher.protocol import inference, model_config
from batcher.server.messages import describe
from batcher.telemetry.statistics import BatchStatistics, Duration, ModelStatisticsSnapshot
from batcher.tensors import DTYPES, TensorSpec

METADATA = ModelMetadata(
    platform="onnxruntime_onnx",
    inputs=(
        TensorSpec("ids", "INT64", (-1, -1)),
        TensorSpec("mask", "BYTES", (-1,), optional=True),
    ),
    outputs=(TensorSpec("Y", "BF16", (-1, 384)),),
    properties={"provider": "cpu"},
)


def config(**changes):
    arguments = {
        "max_batch_size": 8,
        "batching": describe.Batching(),
        "executor": "onnxruntime",
        "instances": 2,
        "device": "cpu",
    }
    return describe.model_config_response("m", "1", METADATA, **(arguments | changes)).config


def test_metadata_keeps_the_row_axis():
    response = describe.model_metadata_response("m", ["1", "2"], METADATA)

    assert response == inference.ModelMetadataResponse(
        name="m",
        versions=["1", "2"],
        platform="onnxruntime_onnx",
        inputs=[
            {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "mask", "datatype": "BYTES", "shape": [-1]},
        ],
        outputs=[{"name": "Y", "datatype": "BF16", "shape": [-1, 384]}],
    )


def test_config_leaves_the_row_axis_out():
    found = config()

    assert [
        (each.name, each.data_type, list(each.dims), each.optional) for each in found.input
    ] == [
        ("ids", model_config.TYPE_INT64, [-1], False),
        ("mask", model_config.TYPE_STRING, [], True),
    ]
    assert [(each.name, each.data_type, list(each.dims)) for each in found.output] == [
        ("Y", model_config.TYPE_BF16, [384])
    ]


def test_config_says_which_outputs_have_labels():
    found = config(labels={"Y": "labels.txt"})

    assert [(each.name, each.label_filename) for each in found.output] == [("Y", "labels.txt")]
    assert [each.format for each in found.input] == [model_config.ModelInput.FORMAT_NONE] * 2


def test_config_names_the_executor_of_the_model():
    found = config()

    assert (found.name, found.platform, found.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert found.max_batch_size == 8
    assert list(found.version_policy.specific.versions) == [1]
    assert found.parameters["provider"].string_value == "cpu"
    assert found.HasField("model_transaction_policy")
    assert not found.model_transaction_policy.decoupled
    assert not found.response_cache.enable


def test_config_says_how_requests_are_batched():
    batching = describe.Batching(
        preferred_sizes=(4, 8),
        max_delay_ns=2_000_000,
        queue_timeout_ns=5_000,
        max_queue_requests=100,
    )

    found = config(batching=batching).dynamic_batching

    assert list(found.preferred_batch_size) == [4, 8]
    assert found.max_queue_delay_microseconds == 2000
    assert found.default_queue_policy.default_timeout_microseconds == 5
    assert found.default_queue_policy.max_queue_size == 100


def test_without_batching_there_is_no_scheduling_choice():
    assert config(batching=None).WhichOneof("scheduling_choice") is None


def test_instances_are_on_a_cpu_or_a_gpu():
    group = model_config.ModelInstanceGroup

    assert config().instance_group[0] == group(name="m", count=2, kind=group.KIND_CPU)
    assert config(device="cuda:1").instance_group[0] == group(
        name="m", count=2, kind=group.KIND_GPU, gpus=[1]
    )


def test_every_datatype_has_a_name_in_the_config():
    for datatype in DTYPES:
        metadata = ModelMetadata("p", (TensorSpec("X", datatype, (-1,)),), ())
        found = describe.model_config_response(
            "m",
            "one",
            metadata,
            max_batch_size=1,
            batching=None,
            executor="e",
            instances=1,
            device="gpu",
        )
        assert found.config.input[0].data_type != model_config.TYPE_INVALID


def test_statistics():
    durations = [Duration(number, number * 10) for number in range(1, 9)]
    snapshot = ModelStatisticsSnapshot(
        99, 12, 3, *durations[:6], (BatchStatistics(4, *durations[:3]),), *durations[6:]
    )

    response = describe.statistics_response([("m", "1", snapshot)])

    def duration(number):
        return {"count": number, "ns": number * 10}

    assert response == inference.ModelStatisticsResponse(
        model_stats=[
            inference.ModelStatistics(
                name="m",
                version="1",
                last_inference=99,
                inference_count=12,
                execution_count=3,
                inference_stats=inference.InferStatistics(
                    success=duration(1),
                    fail=duration(2),
                    queue=duration(3),
                    compute_input=duration(4),
                    compute_infer=duration(5),
                    compute_output=duration(6),
                    cache_hit=duration(7),
                    cache_miss=duration(8),
                ),
                batch_stats=[
                    inference.InferBatchStatistics(
                        batch_size=4,
                        compute_input=duration(1),
                        compute_infer=duration(2),
                        compute_output=duration(3),
                    )
                ],
            )
        ]
    )
