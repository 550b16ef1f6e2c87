"""What a model's configuration in Triton's words becomes."""

from pathlib import Path

import pytest

from batcher.config import ModelConfig
from batcher.errors import ConfigError
from batcher.triton_models import ModelFiles, mapped, model_of, parse_text

ONNX = 'backend: "onnxruntime"\nmax_batch_size: 8\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m" / "3").mkdir(parents=True)
    (tmp_path / "m" / "3" / "model.onnx").touch()
    return tmp_path / "m"


@pytest.fixture
def map_it(folder):
    def call(text=ONNX, defaults=None, overrides=None):
        config = None if text is None else parse_text(text)
        model = None if config is None else model_of(config)
        return mapped(
            ModelFiles("m", 3, folder, folder / "3", config, model, defaults or {}, overrides or {})
        )

    return call


@pytest.fixture
def problems(map_it):
    def call(*args, **kwargs):
        with pytest.raises(ConfigError) as caught:
            map_it(*args, **kwargs)
        return caught.value.problems

    return call


def test_a_model_is_what_a_file_would_say(map_it, folder):
    found = map_it("""
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 16, 8 ]
  max_queue_delay_microseconds: 2000
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    default_timeout_microseconds: 200000
    allow_timeout_override: true
    max_queue_size: 512
  }
}
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
""")
    assert found.ignored == ()
    assert found.config == ModelConfig.model_validate(
        {
            "name": "m",
            "version": "3",
            "executor": "onnxruntime",
            "options": {
                "path": str(folder / "3" / "model.onnx"),
                "providers": ["cuda", "cpu"],
                "threads": {"intra_op": 2},
            },
            "instances": 2,
            "device": "cuda:1",
            "batching": {
                "policy": "fixed",
                "max_batch_size": 32,
                "preferred_batch_sizes": [8, 16],
                "max_queue_delay": "2ms",
            },
            "queue": {
                "max_requests": 512,
                "timeout": "200ms",
                "priority_levels": 2,
                "default_priority": 2,
                "allow_timeout_override": True,
            },
            "outputs": [{"output": "y", "labels": str(folder / "labels.txt")}],
        }
    )


@pytest.mark.parametrize(
    ("text", "policy", "rows"),
    [
        (ONNX, "none", 8),
        (ONNX + "dynamic_batching { }", "fixed", 8),
        ('backend: "onnxruntime" max_batch_size: 0', "none", 0),
        ('backend: "onnxruntime" input { name: "x" data_type: TYPE_FP32 dims: 3 }', "none", 0),
        ('backend: "onnxruntime"', "none", 32),
        ("", "none", 32),
        (None, "adaptive", 32),
    ],
)
def test_batching_without_a_target_is_triton_s(map_it, text, policy, rows):
    batching = map_it(text).config.batching
    assert (batching.policy, batching.max_batch_size) == (policy, rows)


@pytest.mark.parametrize("where", ["defaults", "overrides"])
def test_a_target_makes_adaptive_batches(map_it, where):
    text = (
        ONNX + "dynamic_batching {\n preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 9 }"
    )
    found = map_it(text, **{where: {"batching": {"target_p99": "50ms"}}})
    assert found.config.batching.policy == "adaptive"
    assert found.config.batching.target_p99 == 50_000_000
    assert found.ignored == (
        "dynamic_batching.preferred_batch_size (line 4): ignored: the policy is adaptive",
        "dynamic_batching.max_queue_delay_microseconds (line 4): ignored: the policy is adaptive",
    )


def test_later_sources_win_key_by_key(map_it, folder):
    found = map_it(
        ONNX + "instance_group { count: 3 }",
        defaults={
            "instances": 2,
            "device": "cuda:0",
            "execute_timeout": "9s",
            "batching": {"max_batch_size": 64},
            "queue": {"max_requests": 7, "max_groups": 5},
            "options": {"graph_optimization": "none", "threads": {"inter_op": 2}},
        },
        overrides={
            "batching": {"max_batch_size": 4},
            "queue": {"max_groups": 6},
            "options": {"threads": {"intra_op": 1}},
            "outputs": [{"output": "y", "labels": "labels.txt"}],
        },
    ).config
    assert (found.instances, found.device, found.execute_timeout) == (3, "cuda:0", 9_000_000_000)
    assert found.batching.max_batch_size == 4
    assert (found.queue.max_requests, found.queue.max_groups) == (7, 6)
    assert found.options == {
        "graph_optimization": "none",
        "threads": {"inter_op": 2, "intra_op": 1},
        "path": str(folder / "3" / "model.onnx"),
    }
    assert found.outputs[0].labels == folder / "3" / "labels.txt"


def test_an_executor_of_the_defaults_runs_every_model_with_its_options(map_it):
    defaults = {"executor": "kserve", "options": {"url": "127.0.0.1:9"}}
    found = map_it('backend: "tensorrt" max_batch_size: 4', defaults).config
    assert (found.executor, found.options) == ("kserve", {"url": "127.0.0.1:9", "version": "3"})
    ensemble = 'platform: "ensemble" ensemble_scheduling { step { model_name: "a" } }'
    assert map_it(ensemble, defaults).config.executor == "kserve"
    other = map_it(ONNX, defaults, {"executor": "emulated"}).config
    assert (other.executor, other.options) == ("emulated", {})


def test_the_file_of_a_version(map_it, folder):
    assert map_it(None).config.executor == "onnxruntime"
    (folder / "3" / "model.onnx").unlink()
    (folder / "3" / "model.onnx").mkdir()
    assert map_it().config.options["path"] == str(folder / "3" / "model.onnx" / "model.onnx")
    named = ONNX + 'default_model_filename: "other.onnx"'
    assert map_it(named).config.options["path"] == str(folder / "3" / "other.onnx")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('platform: "tensorrt_plan"', "backend: TensorRT plans have no executor"),
        ('backend: "python"', "backend (line 1): Triton's Python backend is not there"),
        ('platform: "ensemble" ensemble_scheduling { step { model_name: "a" } }', "is an ensemble"),
        ('backend: "fil"', "there is no executor for the backend fil; or name an `executor`"),
        (
            ONNX + "model_transaction_policy { decoupled: true }",
            "decoupled (line 3): a request has",
        ),
        (
            ONNX + 'input { name: "x" data_type: TYPE_FP32 dims: 3 reshape { shape: [ 3, 1 ] } }',
            "input[0].reshape (line 3): got [3, 1]; allowed: none",
        ),
        (ONNX + 'batch_input { target_name: "c" }', "batch_input (line 3): inputs that are made"),
        (ONNX + 'default_model_filename: "../x"', "allowed: a file in the model's folder"),
        (ONNX + 'default_model_filename: "/x"', "allowed: a file in the model's folder"),
        (
            ONNX + 'output { name: "y" data_type: 11 dims: 1 label_filename: "../../x" }',
            "output[0].label_filename (line 3): got",
        ),
        ("max_batch_size: 70000", "batching.max_batch_size: got 70000; allowed: 65536 or less"),
    ],
)
def test_what_cannot_be_served_says_why(problems, text, problem):
    assert any(problem in found for found in problems(text)), problems(text)


def test_a_folder_without_files_says_that_no_backend_is_known(problems, folder):
    (folder / "3" / "model.onnx").unlink()
    assert "no backend is named" in problems(None)[0]
    (folder / "3" / "model.plan").touch()
    assert "TensorRT plans" in problems(None)[0]


def test_a_reshape_to_the_same_shape_is_none(map_it):
    assert map_it(
        ONNX + 'input { name: "x" data_type: TYPE_FP32 dims: 3 reshape { shape: [ 3 ] } }'
    )


def test_wrong_overrides_name_the_key(problems):
    (found,) = problems(overrides={"batching": {"policy": "none", "max_queue_delay": "1ms"}})
    assert found == (
        "batching.max_queue_delay: no effect under policy none; allowed: under policy fixed"
    )


def test_every_field_that_has_no_effect_is_named(map_it):
    text = """backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true format: FORMAT_NCHW }
instance_group [
  { count: 1 kind: KIND_CPU host_policy: "h" rate_limiter { priority: 1 } },
  { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }
]
dynamic_batching {
  preserve_ordering: true
  priority_levels: 20 default_priority_level: 18
  default_queue_policy { timeout_action: DELAY }
  priority_queue_policy { key: 1 value { max_queue_size: 3 } }
}
optimization { graph { level: 1 } }
model_warmup { name: "w" batch_size: 1 }
response_cache { enable: true }
parameters { key: "strange" value { string_value: "1" } }
metric_tags { key: "a" value: "b" }
cc_model_filenames { key: "8.0" value: "x" }
"""
    found = map_it(text)
    fields = [each.split(" (line ")[0] for each in found.ignored]
    assert sorted(fields) == sorted(
        [
            "input[0].allow_ragged_batch",
            "input[0].format",
            "instance_group[0].host_policy",
            "instance_group[0].rate_limiter",
            "instance_group",
            "instance_group[1].gpus",
            "dynamic_batching.preserve_ordering",
            "dynamic_batching.priority_levels",
            "dynamic_batching.default_queue_policy.timeout_action",
            "dynamic_batching.priority_queue_policy",
            "optimization",
            "model_warmup",
            "response_cache.enable",
            "parameters[0]",
            "metric_tags",
            "cc_model_filenames",
        ]
    )
    assert all(": ignored: " in each and "(line " in each for each in found.ignored)
    assert found.config.queue.priority_levels == 16
    assert (found.config.device, found.config.instances) == ("cpu", 1)


def test_a_model_without_a_batch_axis_has_no_window(map_it):
    found = map_it(
        'backend: "onnxruntime" max_batch_size: 0\ndynamic_batching { max_queue_delay_microseconds: 9 }'
    )
    assert found.config.batching.max_batch_size == 0
    assert "ignored: the model has no batch axis" in found.ignored[0]


def test_paths_in_options_are_left_to_the_executor(map_it):
    found = map_it(None, overrides={"executor": "emulated", "options": {"path": "weights"}}).config
    assert Path(found.options["path"]) == Path("weights")


SEQUENCES = """backend: "onnxruntime"
max_batch_size: 4
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 5, 6 ] } ] },
    { name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
  state [
    { input_name: "h" output_name: "h_out" data_type: TYPE_FP32 dims: [ 16 ]
      initial_state: { data_type: TYPE_FP32 dims: [ 16 ] data_file: "h0" name: "first" } },
    { input_name: "c" output_name: "c_out" data_type: TYPE_FP32 dims: [ 8 ] use_growable_memory: true }
  ]
  oldest { max_candidate_sequences: 100 max_queue_delay_microseconds: 50 preferred_batch_size: 2 }
}
"""


def test_sequences_become_the_section_sequence(map_it, folder):
    found = map_it(SEQUENCES)
    sequence = found.config.sequence
    assert (sequence.strategy, sequence.max_sequences) == ("state", 1024)
    assert sequence.idle_timeout == 5_000_000_000
    assert [(each.input, each.output, each.initial_file) for each in sequence.state] == [
        ("h", "h_out", folder / "initial_state" / "h0"),
        ("c", "c_out", None),
    ]
    controls = sequence.controls
    assert (controls.start.input, controls.start.values) == ("START", (0, 1))
    assert (controls.end.input, controls.end.values) == ("END", (False, True))
    assert (controls.ready.input, controls.ready.values) == ("READY", (5, 6))
    assert controls.id == "ID"
    batching = found.config.batching
    assert (batching.policy, batching.max_queue_delay) == ("fixed", 50_000)
    assert batching.preferred_batch_sizes == (2,)
    assert [each.split(" (")[0] for each in found.ignored] == [
        "sequence_batching.oldest.max_candidate_sequences",
        "sequence_batching.state[1].use_growable_memory",
    ]


def test_sequences_without_state_are_up_to_the_executor(map_it):
    text = "max_batch_size: 4 sequence_batching { direct { } }"
    sequence = map_it(text, overrides={"executor": "emulated"}).config.sequence
    assert (sequence.strategy, sequence.idle_timeout) == ("slot", 60_000_000_000)


def test_an_initial_value_is_a_file_of_the_model(problems):
    text = SEQUENCES.replace('"h0"', '"../../../etc/passwd"')
    assert "data_file (line 13): got" in problems(text)[0]
