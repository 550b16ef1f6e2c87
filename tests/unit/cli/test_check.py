from dataclasses import replace

import pytest
import yaml
from pydantic import Field

import batcher.plugins
from batcher.cli.configuration import problems_before_loading
from batcher.cli.hints import lengths_apart
from batcher.config import ModelConfig, load_config
from batcher.errors import BackendUnavailable, ModelLoadError, PluginError
from batcher.executor import (
    BatchResult,
    Capabilities,
    FilePath,
    ModelMetadata,
    Options,
    TensorSpec,
    read_options,
)
from batcher.executors.emulated import EmulatedExecutor

MODELS = "models: [{name: m, executor: emulated}]\n"


def test_a_good_configuration_is_summed_up(run, write):
    path = write("""
server: {grpc: ["127.0.0.1:8001", "unix:/run/a.sock"], admin: ["unix:/run/b.sock"]}
models:
  - name: ranker
    version: "3"
    executor: emulated
    instances: 2
    device: gpu0
    batching: {policy: fixed, max_batch_size: 64, target_p99: 50ms, max_queue_delay: 2ms, preferred_batch_sizes: [8]}
    queue: {max_requests: 9, max_rows: 70, max_bytes: 1MiB, timeout: 1s}
  - {name: tagger, executor: emulated, batching: {policy: none}}
""")
    result = run("check", path)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["grpc:", "127.0.0.1:8001,", "unix:/run/a.sock"] in lines
    assert ["http:", "127.0.0.1:8002"] in lines
    assert ["admin:", "unix:/run/b.sock"] in lines
    assert [
        "model",
        "executor",
        "instances",
        "device",
        "policy",
        "rows",
        "window",
        "target",
        "queue",
    ] in lines
    ranker = "ranker:3 emulated 2 gpu0 fixed 64 2ms, prefers 8 50ms 9 requests, 70 rows, 1MiB, 1s"
    assert ranker.split() in lines
    assert [
        "tagger:1",
        "emulated",
        "1",
        "cpu",
        "none",
        "32",
        "none",
        "-",
        "1024",
        "requests",
    ] in lines
    assert ["batches", "at", "once:", "gpu0", "2,", "cpu", "1"] in lines
    assert [f"{path}:", "ok"] in lines
    assert result.stderr == ""


def test_http_that_is_off_is_not_listed(run, write):
    assert "http:" not in run("check", write("server: {http: null}\n" + MODELS)).stdout


@pytest.mark.parametrize(("more", "text"), [("", "(TLS)"), (", client_ca: a.pem", "(mutual TLS)")])
def test_tls_is_reported(run, write, certificate, more, text):
    certificate("a")
    path = write(f"server: {{tls: {{cert: a.pem, key: a.key{more}}}}}\n{MODELS}")
    assert f"grpc:  127.0.0.1:8001 {text}\n" in run("check", path).stdout


def test_problems_go_to_standard_error_with_2(run, write):
    path = write("models: [{name: m, executor: emulated, bathcing: {}}]")
    result = run("check", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {path}: 1 problem in the configuration\n")
    assert "models[0].bathcing (line 1): unknown key; did you mean batching?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_not_there(run, tmp_path):
    result = run("check", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "cannot be read: No such file or directory" in result.stderr


def test_an_unknown_executor_and_missing_tls_files_are_reported_together(run, write):
    path = write("""
server: {tls: {cert: c.pem, key: k.pem}}
models: [{name: m, executor: emulate}]
""")
    result = run("check", path)
    assert result.exit_code == 2
    assert f"{path}: 3 problems" in result.stderr
    assert "server.tls.cert (line 2): got " in result.stderr
    assert "server.tls.key (line 2): got " in result.stderr
    assert 'models[0].executor (line 3): got "emulate"; allowed: ' in result.stderr
    assert "(did you mean emulated?)" in result.stderr


def test_a_key_of_another_certificate_is_reported(run, write, certificate):
    certificate("a")
    certificate("b")
    result = run("check", write("server: {tls: {cert: a.pem, key: b.key}}\n" + MODELS))
    assert result.exit_code == 2
    assert "server.tls (line 1): " in result.stderr
    assert "must be a certificate chain and its private key" in result.stderr


def test_an_executor_that_comes_with_this_project_says_how_to_get_it(run, write, monkeypatch):
    monkeypatch.setattr("batcher.plugins.executor_names", lambda: ["emulated"])
    result = run("check", write("models: [{name: m, executor: onnxruntime}]"))
    assert "pip install 'plugins/onnxruntime[cpu]' in a checkout" in result.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_wrong_options_are_found_without_loading(run, write, command):
    result = run(
        command,
        write("""
models:
  - name: m
    executor: emulated
    options:
      base: 5
      colums: 3
"""),
    )
    assert result.exit_code == 2
    assert "models[0].options.base (line 6): got 5; allowed: a number with a unit" in result.stderr
    assert "models[0].options.colums (line 7): unknown key; did you mean columns?" in result.stderr


class Reading:
    """An executor that reads files, and fails when it loads or runs as its options say."""

    class Settings(Options):
        path: FilePath
        more: dict[str, tuple[FilePath, ...]] = Field(default_factory=dict)
        fault: str = ""

    capabilities = Capabilities()
    options = Settings

    def load(self, context):
        self.fault = read_options(context, self.Settings).fault
        if self.fault == "load":
            raise ModelLoadError("the file is damaged")
        if self.fault == "wait":
            raise BackendUnavailable("connection refused")
        x, y = TensorSpec("X", "FP32", (-1, 2)), TensorSpec("Y", "FP32", (-1, 2))
        return ModelMetadata("reading", (x,), (y,), {"device": "none"})

    def execute(self, batch):
        if self.fault == "execute":
            raise ZeroDivisionError
        return BatchResult({"Y": batch.inputs["X"]})

    def close(self):
        pass


@pytest.fixture
def reading(monkeypatch):
    """The executor `reading` is installed."""
    find = batcher.plugins.find_executor
    monkeypatch.setattr("batcher.plugins.executor_names", lambda: ["emulated", "reading"])
    monkeypatch.setattr(
        "batcher.plugins.find_executor", lambda name: Reading if name == "reading" else find(name)
    )


def test_files_of_options_are_looked_for_but_only_by_check(run, write, reading, tmp_path):
    (tmp_path / "model").touch()
    path = write("""
models:
  - {name: a, executor: reading, options: {path: model, more: {x: [model]}}}
  - {name: b, executor: reading, options: {path: gone, more: {x: [model, lost]}}}
""")
    result = run("check", path)
    assert result.exit_code == 2
    assert "2 problems" in result.stderr
    gone = f"got {tmp_path}/gone, No such file or directory; allowed: a readable file"
    assert f"models[1].options.path (line 4): {gone}" in result.stderr
    assert "models[1].options.more.x[1] (line 4): got" in result.stderr
    assert problems_before_loading(load_config(path), thorough=False) == []


def test_an_executor_that_cannot_be_imported_is_reported(run, write, monkeypatch):
    def broken(_):
        raise PluginError("executor 'm' could not be imported: no such thing")

    monkeypatch.setattr("batcher.plugins.find_executor", broken)
    result = run("check", write(MODELS))
    assert result.exit_code == 2
    assert "models[0].executor (line 1): executor 'm' could not be imported" in result.stderr


@pytest.mark.parametrize("transport", ["builtin", "grpcio"])
def test_load_loads_and_warms_up_and_says_what_there_is(run, write, transport):
    result = run("check", "--load", write(f"server: {{transport: {transport}}}\n{MODELS}"))
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("loaded m:1: ")]
    assert line.endswith(
        "s, X FP32 [-1, 16] -> Y FP32 [-1, 16], BATCH INT32 [-1, 1] (emulated, device cpu)"
    )
    assert result.stdout.endswith(": ok\n")
    assert result.stderr == "loading m:1 with emulated\n"


def test_load_finds_what_only_loading_finds_of_every_model(run, write, reading, tmp_path):
    (tmp_path / "model").touch()
    path = write("""
models:
  - {name: a, executor: reading, options: {path: model, fault: load}}
  - {name: b, executor: reading, options: {path: model, fault: execute}}
  - {name: c, executor: reading, options: {path: model}}
  - {name: d, executor: emulated, padding: [{input: Z, axis: 1, buckets: [4]}]}
  - {name: e, executor: reading, options: {path: model, fault: wait}}
""")
    assert run("check", path).exit_code == 0
    result = run("check", "--load", path)
    assert result.exit_code == 2
    assert "loaded c:1: " in result.stdout
    assert not result.stdout.endswith(": ok\n")
    assert "4 problems" in result.stderr
    assert "models[4] (line 7): connection refused" in result.stderr, "it is tried once"
    assert "models[0] (line 3): the file is damaged" in result.stderr
    assert (
        "models[1] (line 4): b: the warm-up batch of 1 rows failed: ZeroDivisionError"
        in result.stderr
    )
    assert "models[3].padding[0].input: got 'Z'; allowed: X" in result.stderr


def test_load_finds_labels_that_are_no_text(run, write, tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff")
    result = run(
        "check",
        "--load",
        write(
            "models: [{name: m, executor: emulated, outputs: [{output: Y, labels: labels.txt}]}]"
        ),
    )
    assert result.exit_code == 2
    assert "models (line 1): model 'm': labels: " in result.stderr


@pytest.mark.parametrize(
    ("more", "hinted"),
    [
        ("", True),
        ("padding: [{input: tokens, axis: 1, buckets: [8, 16]}]", False),
        ("batching: {policy: none}", False),
        ("batching: {max_batch_size: 1}", False),
    ],
)
def test_variable_axes_without_padding_are_hinted_at(more, hinted):
    section = {"name": "m", "executor": "emulated"} | (yaml.safe_load(more) or {})
    model = ModelConfig.model_validate(section)
    tokens = TensorSpec("tokens", "INT64", (-1, -1))
    metadata = ModelMetadata("p", (tokens, TensorSpec("x", "FP32", (-1, 4))), ())
    hint = lengths_apart(model, metadata)
    assert (hint is not None) == hinted
    if hint is not None:
        assert hint.startswith("tokens axis 1 varies in length and is not padded")


def test_load_prints_the_hint_of_a_model_that_needs_padding(run, write, monkeypatch):
    tokens = TensorSpec("tokens", "FP32", (-1, -1))
    load = EmulatedExecutor.load

    def variable(self, context):
        return replace(load(self, context), inputs=(tokens,))

    monkeypatch.setattr(EmulatedExecutor, "load", variable)
    config = write("models: [{name: m, executor: emulated, warmup: {batch_sizes: []}}]")
    result = run("check", "--load", config)
    assert result.exit_code == 0, result.stderr
    assert "hint for m:1: tokens axis 1 varies in length and is not padded" in result.stdout


OWN = 'server: {grpc: ["0.0.0.0:8001", "unix:/run/a.sock"], http: "[::1]:8002", admin: ["10.0.0.7:8003"]}\n'


@pytest.mark.parametrize(
    ("executor", "key", "url", "listener"),
    [
        ("kserve", "url", "localhost:8001", "server.grpc"),
        ("kserve", "url", "[::1]:8001", "server.grpc"),
        ("kserve", "url", "unix:/run/a.sock", "server.grpc"),
        ("kserve", "url", "10.0.0.7:8003", "server.admin"),
        ("http", "url", "http://localhost:8002/v2", "server.http"),
        ("torchserve", "management_url", "127.0.0.1:8001", "server.grpc"),
        ("kserve", "url", "neighbor:8001", None),
        ("kserve", "url", "localhost:8003", None),
        ("kserve", "url", "unix:/run/b.sock", None),
        ("kserve", "url", "localhost:9001", None),
    ],
)
def test_a_neighbor_is_another_server(write, executor, key, url, listener):
    found = problems_before_loading(
        load_config(
            write(
                f"{OWN}models: [{{name: m, executor: {executor}, options: {{{key}: '{url}'}}}}]\n"
            )
        ),
        thorough=False,
    )
    texts = [text for path, text in found if path == ("models", 0, "options", key)]
    expected = f"got {url}, where this server itself listens ({listener}); allowed: another address"
    assert texts == ([expected] if listener else [])


def test_nor_is_that_of_a_model_repository_this_server(write, tmp_path):
    text = f"{OWN}model_repository: {{path: '{tmp_path}', defaults: {{executor: kserve, options: {{url: 'localhost:8001'}}}}}}\n"
    ((path, _),) = problems_before_loading(load_config(write(text)), thorough=False)
    assert path == ("model_repository", "defaults", "options", "url")


def test_what_the_executor_declares_is_held_against_the_configuration_without_loading(run, write):
    config = write("""
        models:
        - {name: a, executor: emulated, max_in_flight: 2}
        - name: b
          executor: kserve
          isolation: process
          max_in_flight: 100
          options: {url: "127.0.0.1:1"}
    """)
    result = run("check", config)
    assert result.exit_code == 2
    assert "models[0].max_in_flight (line 3): got 2; allowed: 1 to 1, the most" in result.stderr
    assert "models[1].max_in_flight (line 7): got 100; allowed: 1 to 64, the most" in result.stderr
    assert "models[1].isolation (line 6): got 'process'; allowed: thread, as" in result.stderr


@pytest.mark.parametrize(
    ("tracing", "line"),
    [
        ("{}", "traces: where the environment says (grpc)"),
        ("{endpoint: 'https://c:4318', protocol: http}", "traces: https://c:4318 (http)"),
    ],
)
def test_where_traces_go(run, write, tracing, line):
    result = run("check", write(f"{MODELS}tracing: {tracing}\n"))
    assert result.exit_code == 0
    assert line in result.stdout.splitlines()


def test_tracing_without_its_packages(run, write, monkeypatch):
    monkeypatch.setattr("batcher.telemetry.tracing.setup.find_spec", lambda _: None)
    result = run("check", write(f"{MODELS}tracing: {{}}\n"))
    assert result.exit_code == 2
    assert "tracing (line 2): needs OpenTelemetry" in result.stderr
    assert "pip install '.[tracing]'" in result.stderr


def test_files_of_tracing(run, write):
    text = "{headers: {a: {file: no.token}}, tls: {ca: no.pem}}"
    result = run("check", write(f"{MODELS}tracing: {text}\n"))
    assert result.exit_code == 2
    assert "tracing.headers.a.file (line 2): got" in result.stderr
    assert "tracing.tls.ca (line 2): got" in result.stderr


def test_the_gpu_of_a_device_is_shown(run, write):
    path = write("""
models: [{name: m, executor: emulated, device: gpu0}, {name: n, executor: emulated}]
devices: {gpu0: {gpu: "0000:3b:00.0"}}
""")
    result = run("check", path)
    assert result.exit_code == 0
    assert "batches at once: gpu0 1 (GPU 0000:3b:00.0), cpu 1" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (
            "{upstream: 5ms, queue: 10ms}",
            "hello:1 of 50ms: upstream 5ms, queue 10ms; 35ms left for admission, execute, reply",
        ),
        (
            "{admission: 1ms, queue: 9ms, execute: 30ms, reply: 5ms}",
            "hello:1 of 50ms: admission 1ms, queue 9ms, execute 30ms, reply 5ms; 5ms left",
        ),
    ],
)
def test_what_a_budget_leaves_is_shown(run, write, budget, line):
    batching = "{target_p99: 50ms}"
    path = write(
        f"models: [{{name: hello, executor: emulated, batching: {batching}, budget: {budget}}}]"
    )
    assert f"budget: {line}\n" in run("check", path).stdout
