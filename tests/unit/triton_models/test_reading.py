"""Reading `config.pbtxt`: protobuf's text format as people write it, and what is wrong with it."""

import json

import pytest
from google.protobuf import json_format

from batcher.errors import ConfigError
from batcher.protocol import model_config
from batcher.triton_models import model_of, parse_json, parse_text, read_config
from batcher.triton_models.reading import MAX_CONFIG_BYTES


def problems(text, read=parse_text):
    with pytest.raises(ConfigError) as caught:
        model_of(read(text))
    return caught.value.problems


WRITTEN = """
# comments, also with "quotes" and { braces
name: 'two' "texts"    # adjacent texts are one
platform: "onnxruntime_onnx";
max_batch_size: 0x10,
input [
  { name: "a" data_type: TYPE_FP32 dims: [ -1, 3 ] },
  { name: "b" data_type: TYPE_STRING dims: 1 dims: -1 optional: true }
]
input: < name: "c{}#" data_type: 9 dims: [] reshape: { shape: [ 1 ] } >
output { name: "y" data_type: TYPE_FP16 dims: [ 4 ] label_filename: "labels.txt" }
dynamic_batching { preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 100 }
parameters: { key: "k" value: { string_value: "say \\"hi\\" # } " } }
parameters { key: "empty" value { string_value: "" } }
"""


def test_a_text_is_read_as_protobuf_writes_it_by_hand():
    config = parse_text(WRITTEN, "here")
    model = model_of(config)
    assert model.name == "twotexts"
    assert (model.backend, model.max_batch_size) == ("onnxruntime", 16)
    assert [(each.name, each.datatype, each.dims) for each in model.inputs] == [
        ("a", "FP32", (-1, 3)),
        ("b", "BYTES", (1, -1)),
        ("c{}#", "INT64", ()),
    ]
    assert model.inputs[1].optional
    assert model.inputs[2].reshape == (1,)
    assert model.outputs[0].labels == "labels.txt"
    assert model.batching.preferred_sizes == (4, 8)
    assert model.batching.max_delay_ns == 100_000
    assert model.parameters == {"k": 'say "hi" # } ', "empty": ""}
    assert config.unknown == ()


def test_every_field_has_its_line():
    config = parse_text(WRITTEN)
    assert config.lines["max_batch_size",] == 5
    assert config.lines["input", 0, "dims", 1] == 7
    assert config.lines["input", 1, "dims", 1] == 8
    assert config.lines["input", 2, "name"] == 10
    assert config.lines["dynamic_batching", "preferred_batch_size", 1] == 12
    assert config.lines["parameters", 1, "key"] == 14


def test_unknown_fields_are_named_with_their_line_and_what_was_perhaps_meant():
    config = parse_text(
        """name: "m"
max_bach_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [1] new_field { deep: [ { a: 1 }, { b: "}" } ] } } ]
dynamic_batching { new_number: 3.5e2 }
"""
    )
    assert config.unknown == (
        ("max_bach_size",),
        ("input", 0, "new_field"),
        ("dynamic_batching", "new_number"),
    )
    assert config.unknown_fields() == [
        "max_bach_size (line 2): unknown field; ignored (did you mean max_batch_size?)",
        "input[0].new_field (line 3): unknown field; ignored",
        "dynamic_batching.new_number (line 4): unknown field; ignored",
    ]
    assert model_of(config).name == "m"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name: "a"\nname: "b"', 'line 2: Message type "inference.ModelConfig" should not have'),
        (
            "max_batch_size: eight",
            "line 1: Couldn't parse integer: eight (in max_batch_size: eight)",
        ),
        ("input {\n  data_type: FP32\n}", "line 2: got FP32; allowed: TYPE_INVALID, TYPE_BOOL"),
        ("instance_group { kind: GPU }", "got GPU; allowed: KIND_AUTO, KIND_GPU, KIND_CPU"),
        ("input [ {", 'line 1: Expected "}"'),
        ("dynamic_batching { }\nsequence_batching { }", 'line 2: Field "sequence_batching"'),
        ("[some.extension]: 3", "line 1: "),
        ("a " + "{a " * 3000 + "}" * 3000, "nested too deeply"),
        ("#" * (MAX_CONFIG_BYTES + 1), f"allowed: {MAX_CONFIG_BYTES} bytes"),
    ],
)
def test_what_is_no_configuration_says_where_and_what_is_allowed(text, problem):
    (found,) = problems(text)
    assert problem in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_batch_size: -1", "max_batch_size (line 1): got -1; allowed: 0 or more"),
        (
            'input {\n name: "x" data_type: TYPE_INT32 dims: [ 1 ]\n is_shape_tensor: true }',
            "input[0].is_shape_tensor (line 3): got true; allowed: false: values that are shapes",
        ),
        ("input { data_type: TYPE_FP32 }", "input[0].name (line 1): missing"),
        ('input { name: "x" }', 'input[0].data_type (line 1): got "TYPE_INVALID"; allowed: TYPE_B'),
        ('input { name: "x" data_type: 99 }', 'got "99"; allowed: TYPE_BOOL'),
        (
            'output { name: "x" data_type: 1 dims: [ 1, -2 ] }',
            "output[0].dims[1] (line 1): got -2; allowed: -1 (any length)",
        ),
        ("instance_group { count: -1 }", "instance_group[0].count (line 1): got -1"),
        (
            "instance_group { kind: 7 }",
            "instance_group[0].kind (line 1): got 7; allowed: KIND_AUTO",
        ),
        ("instance_group { gpus: [ 0, -1 ] }", "instance_group[0].gpus[1] (line 1): got -1"),
        ("version_policy { specific { versions: [ 1, 0 ] } }", "versions[1] (line 1): got 0"),
        ("version_policy { specific { } }", "missing; needed: at least one version"),
        (
            "max_batch_size: 8 dynamic_batching {\n preferred_batch_size: [ 4, 16 ] }",
            "dynamic_batching.preferred_batch_size[1] (line 2): got 16; allowed: 1 to max_batch_size",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "default_priority_level (line 1): got 0; allowed: 1 to priority_levels, which is 2",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value { } } }",
            "priority_queue_policy (line 1): got 1; allowed: levels 1 to priority_levels",
        ),
        (
            'sequence_batching { control_input { name: "S" control { kind: 0 int32_false_true: 1 } } }',
            "control_input[0].control[0] (line 1): needed: two values",
        ),
        ("sequence_batching { state { data_type: 1 } }", "state[0].input_name (line 1): missing"),
        ("sequence_batching { oldest { max_candidate_sequences: -4 } }", "got -4; allowed: 0 or"),
    ],
)
def test_a_value_that_is_not_allowed_says_where_and_what_is(text, problem):
    assert any(problem in found for found in problems(text)), problems(text)


def test_all_problems_of_a_file_are_told_at_once():
    text = "max_batch_size: -1\ninput { data_type: TYPE_FP32 }\ninstance_group { count: -3 }"
    assert len(problems(text)) == 3


def test_sequences():
    model = model_of(
        parse_text("""
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] },
    { name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
  state [
    { input_name: "h" output_name: "h_out" data_type: TYPE_FP32 dims: [ 16 ]
      initial_state: { data_type: TYPE_FP32 dims: [ 16 ] data_file: "h0" name: "zero" } },
    { input_name: "c" output_name: "c_out" data_type: TYPE_FP32 dims: [ -1 ] }
  ]
  oldest { max_candidate_sequences: 100 max_queue_delay_microseconds: 50 }
}
""")
    )
    found = model.sequences
    assert model.batching is None
    assert (found.strategy, found.max_candidates) == ("oldest", 100)
    assert (found.max_idle_ns, found.max_delay_ns) == (5_000_000_000, 50_000)
    assert [(each.input, each.kind, each.datatype) for each in found.controls] == [
        ("START", "start", "FP32"),
        ("END", "end", "BOOL"),
        ("ID", "id", "UINT64"),
    ]
    assert [(each.initial_dims, each.initial_file) for each in found.states] == [
        ((16,), "h0"),
        (None, ""),
    ]


def test_sequences_have_triton_defaults():
    found = model_of(parse_text("sequence_batching { }")).sequences
    assert (found.strategy, found.max_idle_ns, found.max_candidates) == ("direct", 1_000_000_000, 0)


def test_queues_and_priorities():
    found = model_of(
        parse_text("""
dynamic_batching {
  priority_levels: 3 default_priority_level: 2 preserve_ordering: true
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 7 max_queue_size: 9 }
  priority_queue_policy { key: 3 value { allow_timeout_override: true } }
}
""")
    ).batching
    assert (found.priority_levels, found.default_priority) == (3, 2)
    assert found.preserve_ordering
    assert found.queue.delay_on_timeout
    assert (found.queue.timeout_ns, found.queue.max_requests) == (7_000, 9)
    ((level, queue),) = found.by_priority
    assert (level, queue.allow_timeout_override, queue.max_requests) == (3, True, None)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", [12]),
        ("version_policy { latest { } }", [12]),
        ("version_policy { latest { num_versions: 2 } }", [12, 3]),
        ("version_policy { all { } }", [12, 3, 1]),
        ("version_policy: { specific: { versions: [ 1, 3, 7 ] } }", [3, 1]),
    ],
)
def test_a_version_policy_chooses_of_what_is_there(text, chosen):
    assert model_of(parse_text(text)).versions.chosen(frozenset({1, 3, 12})) == chosen


def test_json_is_read_like_the_text():
    text = parse_text(WRITTEN)
    document = json_format.MessageToJson(text.message)
    snake = json_format.MessageToJson(text.message, preserving_proto_field_name=True)
    assert parse_json(document).message == text.message
    assert parse_json(snake).message == text.message


def test_json_names_unknown_fields_and_refuses_unknown_values():
    config = parse_json(
        '{"max_batch_size": "8", "maxBatch": 1, "input": [{"name": "x", "dimz": [1]}],'
        ' "parameters": {"k": {"string_value": "v", "other": 1}}}'
    )
    assert config.message.max_batch_size == 8
    assert config.message.parameters["k"].string_value == "v"
    assert [".".join(map(str, path)) for path in config.unknown] == [
        "maxBatch",
        "input.0.dimz",
        "parameters.k.other",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "allowed: an object"),
        ('{"input": [{"data_type": "TYPE_FOO"}]}', "TYPE_FOO"),
        ('{"max_batch_size": 1e20}', "max_batch_size"),
        ('{"input": 3}', "input"),
        ('{"parameters": [3]}', "parameters"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({"name": "x" * MAX_CONFIG_BYTES}), "allowed: "),
    ],
)
def test_json_that_is_no_configuration(text, problem):
    (found,) = problems(text, parse_json)
    assert problem in found


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name, content in (("latin.pbtxt", 'name: "é"'.encode("latin-1")), ("gone.pbtxt", None)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            read_config(path)


def test_a_file_is_read(tmp_path):
    (tmp_path / "config.pbtxt").write_text(WRITTEN)
    config = read_config(tmp_path / "config.pbtxt")
    assert config.source == str(tmp_path / "config.pbtxt")
    assert isinstance(config.message, model_config.ModelConfig)


def test_a_byte_order_mark_and_other_line_ends_are_no_fields(tmp_path):
    (tmp_path / "config.pbtxt").write_bytes(b"\xef\xbb\xbfname: 'a'\r\nmax_batch_size: 4\r\n")
    config = read_config(tmp_path / "config.pbtxt")
    assert (config.message.name, config.message.max_batch_size) == ("a", 4)
    assert config.lines["max_batch_size",] == 2
