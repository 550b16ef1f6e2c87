import pytest

from batcher.clock import MILLISECOND
from batcher.config import parse_config
from batcher.errors import InputError, ModelLoadError
from batcher.simulation.engine.profile import ModelProfile, SizeProfile
from batcher.simulation.engine.scenario import Costs, deployment_of, model_names, models_of
from batcher.simulation.engine.service_time import QUIET, Noise, linear
from batcher.simulation.traffic.workload import Mix, parse_mix

TWO = """
models:
  - name: a
    executor: emulated
    options: {base: 5ms, per_row: 1ms, jitter: 0.2}
    device: x
    instances: 2
    batching: {max_batch_size: 4, target_p99: 50ms}
    warmup: {batch_sizes: [1, 4]}
  - {name: b, executor: onnxruntime, device: y, max_in_flight: 3, batching: {max_batch_size: 2}}
"""
A = Mix.of(("a", 1.0))
B = Mix.of(("b", 1.0))


def test_everything_but_service_times_comes_from_the_configuration():
    config = parse_config(TWO)
    (model,) = deployment_of(config, A, Costs()).models
    assert model.name == "a"
    assert model.settings == config.models[0].scheduler_settings()
    assert (model.device, model.instances, model.warmup_sizes) == ("x", 2, (1, 4))
    assert model.curve == linear(5 * MILLISECOND, MILLISECOND, 4)
    assert model.noise == Noise("uniform", 0.2)


def test_rows_take_what_the_next_batch_size_takes():
    sized = TWO.replace("max_batch_size: 4,", "batch_sizes: [1, 4],").replace(
        "warmup: {batch_sizes: [1, 4]}", ""
    )
    (model,) = deployment_of(parse_config(sized), A, Costs()).models
    assert model.curve == (0, *(MILLISECOND * took for took in (6, 9, 9, 9)))
    assert (model.settings.batch_sizes, model.warmup_sizes) == ((1, 4), (1, 4))
    (model,) = deployment_of(parse_config(sized), A, Costs({"a": {1: 3, 4: 8}})).models
    assert model.curve == (0, 3, 8, 8, 8)


def test_the_emulated_device_is_exclusive_and_others_have_their_limit():
    both = deployment_of(
        parse_config(TWO), models_of(parse_config(TWO), None), Costs({"b": {1: 5}})
    )
    assert both.exclusive == {"x"}
    assert both.device_limits == {"x": 2, "y": 3}
    assert both.device_slots() == {"x": 1, "y": 3}


def test_a_device_that_nothing_uses_is_left_out():
    assert deployment_of(parse_config(TWO), A, Costs()).device_limits == {"x": 2}


def test_where_service_times_come_from():
    config = parse_config(TWO)
    profile = ModelProfile("b", "1", "onnxruntime", "y", {1: SizeProfile.of([7])})
    measured = Costs(profiles={("b", "1"): profile})
    assert deployment_of(config, B, measured).models[0].curve == (0, 7, 14)
    table = Costs({"": {1: 3}}, {("b", "1"): profile}, Noise("lognormal", 0.5))
    (model,) = deployment_of(config, B, table).models
    assert model.curve == (0, 3, 6)
    assert model.noise == Noise("lognormal", 0.5)
    assert deployment_of(config, B, measured).models[0].noise == QUIET


def test_the_target_can_be_replaced():
    (model,) = deployment_of(parse_config(TWO), A, Costs(), 7).models
    assert model.settings.target_ns == 7


@pytest.mark.parametrize(
    ("limit", "limit_ns"),
    [("null", 2_000_000_000), ("target", 200_000_000), ("deadline", None), ("3s", 3_000_000_000)],
)
def test_the_limit_follows_a_replaced_target(limit, limit_ns):
    text = TWO.replace("target_p99: 50ms", f"target_p99: 50ms, limit: {limit}")
    (model,) = deployment_of(parse_config(text), A, Costs(), 200_000_000).models
    assert model.settings.policy.limit_ns == limit_ns


def test_a_target_beyond_the_limit_is_refused():
    text = TWO.replace("target_p99: 50ms", "target_p99: 50ms, limit: 100ms")
    with pytest.raises(
        InputError, match=r"--target: got 0\.2s; allowed: at most batching\.limit of a"
    ):
        deployment_of(parse_config(text), A, Costs(), 200_000_000)


@pytest.mark.parametrize(
    ("models", "costs", "message"),
    [
        (B, Costs(), "model 'b': what a batch takes on the executor 'onnxruntime' is not known"),
        (A, Costs({"b": {1: 5}}), "--service-times: got the model 'b'; allowed: a"),
        (
            B,
            Costs(profiles={("c", "1"): ModelProfile("c", "1", "e", "d", {})}),
            "--profile: has c version 1; model 'b' is version 1",
        ),
    ],
)
def test_unknown_service_times_are_an_error(models, costs, message):
    with pytest.raises(InputError) as error:
        deployment_of(parse_config(TWO), models, costs)
    assert message in str(error.value)


def test_an_emulated_model_whose_batches_take_no_time_is_an_error():
    config = parse_config("models: [{name: m, executor: emulated}]")
    with pytest.raises(InputError, match=r"options\.base and options\.per_row are 0"):
        deployment_of(config, parse_mix("m"), Costs())


def test_wrong_options_of_the_emulated_executor():
    config = parse_config("models: [{name: m, executor: emulated, options: {bas: 1ms}}]")
    with pytest.raises(ModelLoadError, match="did you mean base"):
        deployment_of(config, parse_mix("m"), Costs())


def test_versions_of_one_name_are_told_apart():
    config = parse_config("""
models:
  - {name: m, executor: emulated}
  - {name: m, version: "2", executor: emulated}
  - {name: n, executor: emulated}
""")
    assert list(model_names(config)) == ["m/1", "m/2", "n"]
    assert models_of(config, None).shares == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    with pytest.raises(InputError, match="--model: got 'm'; allowed: m/1, m/2, n"):
        models_of(config, parse_mix("m"))
