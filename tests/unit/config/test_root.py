import pytest

from batcher.config import device_limits, gpus_of, limits_of


def test_a_name_may_have_several_versions(parse):
    config = parse("""
        models:
          - {name: m, executor: e}
          - {name: m, version: "2", executor: e}
    """)
    assert [model.version for model in config.models] == ["1", "2"]


def test_a_name_and_version_given_twice(problems):
    found = problems("""
        models:
          - {name: m, executor: e}
          - {name: m, version: "1", executor: e}
    """)
    assert found == [
        "models[1].name (line 4): got m version 1 a second time; allowed: another name or version"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "models: missing; needed: at least one model, or a model_repository"),
        ("models: []", "models (line 1): missing; needed: at least one model, or a model_repository"),
        ("models: null", "models (line 1): got null; allowed: a list"),
        ("models: {a: 1}", 'models (line 1): got {"a": 1}; allowed: a list'),
        ("[1]", "the document (line 1): got [1]; allowed: a mapping with the keys server, model_repository, models"),
        ("hello", 'the document (line 1): got "hello"; allowed: a mapping with the keys'),
        ("models: [3]", "models[0] (line 1): got 3; allowed: a mapping with the keys name, version"),
        ("models: [{name: m}]", "models[0].executor (line 1): missing; needed: The executor that runs the model"),
    ],
)  # fmt: skip
def test_what_a_document_must_have(problems, text, expected):
    (found,) = problems(text)
    assert found.startswith(expected)


def test_a_device_without_an_entry_takes_what_its_largest_model_could_use(parse):
    config = parse("""
        models:
          - {name: a, executor: e, device: gpu0, instances: 2, max_in_flight: 2}
          - {name: b, executor: e, device: gpu0, instances: 3}
          - {name: c, executor: e}
    """)
    assert device_limits(config) == {"gpu0": 4, "cpu": 1}


def test_an_entry_bounds_its_device(parse):
    config = parse("""
        models: [{name: a, executor: e, device: gpu0, instances: 4}, {name: b, executor: e}]
        devices: {gpu0: {max_in_flight: 1}}
    """)
    assert device_limits(config) == {"gpu0": 1, "cpu": 1}


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("{gpu1: {max_in_flight: 1}}", "devices.gpu1 (line 2): no model names this device; allowed: gpu0 (did you mean gpu0?)"),
        ("{gpu0: {}}", "devices.gpu0 (line 2): empty, and so without effect; allowed: max_in_flight, gpu"),
        ("{gpu0: {gpu: -1}}", "devices.gpu0.gpu (line 2): got -1; allowed: a number as nvidia-smi counts, a UUID (GPU-... or MIG-...), or a PCI bus id (0000:3b:00.0)"),
        ("{gpu0: {gpu: true}}", "devices.gpu0.gpu (line 2): got true; allowed: a number"),
        ("{gpu0: {gpu: cuda:0}}", 'devices.gpu0.gpu (line 2): got "cuda:0"; allowed: a number'),
        ("{gpu0: {gpu: 1.0}}", "devices.gpu0.gpu (line 2): got 1.0; allowed: a number"),
        ("{gpu0: {max_in_flight: 0}}", "devices.gpu0.max_in_flight (line 2): got 0; allowed: 1 or more"),
        ("{gpu0: {max: 1, max_in_flight: 1}}", "devices.gpu0.max (line 2): unknown key;"),
        ("[gpu0]", 'devices (line 2): got ["gpu0"]; allowed: a mapping'),
    ],
)  # fmt: skip
def test_a_wrong_device_entry(problems, devices, expected):
    (found,) = problems(f"models: [{{name: a, executor: e, device: gpu0}}]\ndevices: {devices}")
    assert found.startswith(expected)


@pytest.mark.parametrize(
    "gpu",
    [0, 15, "GPU-1b2c3d4e-0000-4000-8000-000000000000", "MIG-41b35014-452f-57ef-b1b0-3fd1f62be3a1",
     "MIG-GPU-1b2c3d4e-0000-4000-8000-000000000000/7/0", "0000:3b:00.0", "00000000:3B:00.0", "3b:00"],
)  # fmt: skip
def test_a_device_may_say_its_gpu_alone(parse, gpu):
    config = parse(
        f"models: [{{name: a, executor: e, device: gpu0, instances: 2}}]\ndevices: {{gpu0: {{gpu: {gpu!r}}}}}"
    )
    assert gpus_of(config.devices) == {"gpu0": gpu}
    assert limits_of(config.models, config.devices) == {"gpu0": 2}, "as without an entry"
