import json
from pathlib import Path

import pytest

from batcher.config import load_config
from batcher.errors import ConfigError

MODELS = "models: [{name: m, executor: emulated}]\n"
TLS = "server: {tls: {cert: tls/cert.pem, key: /abs/key.pem, client_ca: ca.pem}}\n"


@pytest.fixture
def write(tmp_path):
    def call(content):
        path = tmp_path / "config.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return call


def test_relative_paths_start_at_the_folder_of_the_file(write, tmp_path):
    config = load_config(write(TLS + MODELS))
    assert config.base_dir == tmp_path
    assert config.server.tls.cert == tmp_path / "tls/cert.pem"
    assert config.server.tls.key == Path("/abs/key.pem")


def test_the_folder_is_absolute_even_when_the_path_is_not(write, tmp_path, monkeypatch):
    write(MODELS)
    monkeypatch.chdir(tmp_path)
    assert load_config("config.yaml").base_dir == tmp_path


def test_without_a_file_paths_start_here(parse):
    config = parse(TLS + MODELS)
    assert config.base_dir == Path()
    assert config.server.tls.cert == Path("tls/cert.pem")


def test_the_folder_is_no_key_of_the_file(problems):
    (found,) = problems("base_dir: /x\n" + MODELS)
    assert found.startswith("base_dir (line 1): unknown key")


def test_the_environment_is_read(write):
    config = load_config(write("models: [{name: '${NAME}', executor: emulated}]"), {"NAME": "x"})
    assert config.models[0].name == "x"


def test_a_file_that_cannot_be_read(tmp_path, write):
    for path, why in (
        (tmp_path / "none.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.problems == [f"cannot be read: {why}"]
        assert caught.value.source == str(path)
    with pytest.raises(ConfigError, match="not UTF-8 text, at byte 3"):
        load_config(write(b"a: \xff"))


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines(problems):
    assert problems("""
        models:
          - name: m
            executor: emulated
            options: {path: "${NOPE}"}
            bathcing: {}
            max_queue_delay: 2ms
            queue: {max_requests: 0}
        server:
          http: 3
          http: 4
        color: red
    """) == [
        "models[0].options.path (line 5): NOPE is not set in the environment; set it or write ${NOPE:-default}",
        (
            "models[0].bathcing (line 6): unknown key; did you mean batching? allowed: name, version, executor, "
            "options, instances, device, max_in_flight, isolation, pipelining, execute_timeout, max_abandoned_threads, idempotent, load_timeout, load_retry_timeout, reload, drain_timeout, on_nan, batching, budget, padding, "
            "inputs, outputs, sequence, queue, warmup, health, restart"
        ),
        "models[0].max_queue_delay (line 7): unknown key; write it under batching",
        "models[0].queue.max_requests (line 8): got 0; allowed: 1 or more",
        "server.http (line 10): given twice, again on line 11; allowed: once",
        "color (line 12): unknown key; allowed: server, model_repository, models, devices, journal, flight_recorder, tracing, metrics",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("server", "watch", "config_poll_interval"),
        ("models[0]", "load_retry", "load_retry_timeout"),
        ("models[0].queue", "ageing", "promote_after"),
        ("flight_recorder", "memory", "max_memory"),
    ],
)
def test_a_renamed_key_is_refused_with_its_name_now(problems, path, old, new):
    document = {
        "server": {},
        "models": [{"name": "m", "executor": "emulated", "queue": {}}],
        "flight_recorder": {"folder": "f"},
    }
    section = document
    for step in path.replace("[0]", ".0").split("."):
        section = section[int(step) if step.isdigit() else step]
    section[old] = "1s"
    assert problems(json.dumps(document)) == [
        f"{path}.{old} (line 1): unknown key; it is called {new} now"
    ]


def test_a_reference_that_failed_is_not_complained_about_twice(problems):
    (found,) = problems("models: [{name: m, executor: e, execute_timeout: '${NOPE}'}]")
    assert found == (
        "models[0].execute_timeout (line 1): NOPE is not set in the environment; "
        "set it or write ${NOPE:-default}"
    )


def test_broken_yaml_is_the_only_problem(problems):
    (found,) = problems("models: [\n")
    assert found.startswith("the document (line 2): not valid YAML")


def test_long_values_are_cut(problems):
    (found,) = problems(f"models: [{{name: '{'x' * 500}', executor: e}}]")
    assert f'got "{"x" * 56}...; allowed' in found


def test_the_message_names_the_source_and_counts(parse):
    with pytest.raises(ConfigError) as caught:
        parse("models: []\nx: 1")
    assert str(caught.value).splitlines()[0] == "test.yaml: 2 problems in the configuration"
