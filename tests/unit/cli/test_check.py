import pytest

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
    batching: {policy: fixed, max_batch_size: 64, target_p99: 50ms, max_delay: 2ms, preferred_batch_sizes: [8]}
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


@pytest.mark.parametrize(("more", "told"), [("", "(TLS)"), (", client_ca: a.pem", "(mutual TLS)")])
def test_tls_is_told(run, write, tmp_path, more, told):
    (tmp_path / "a.pem").write_text("x")
    path = write(f"server: {{tls: {{cert: a.pem, key: a.pem{more}}}}}\n{MODELS}")
    assert f"grpc:  127.0.0.1:8001 {told}\n" in run("check", path).stdout


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


def test_an_unknown_executor_and_missing_tls_files_are_told_together(run, write):
    path = write("""
server: {tls: {cert: c.pem, key: k.pem}}
models: [{name: m, executor: emulate}]
""")
    result = run("check", path)
    assert result.exit_code == 2
    assert f"{path}: 3 problems" in result.stderr
    assert "server.tls.cert: got " in result.stderr
    assert "server.tls.key: got " in result.stderr
    assert 'models[0].executor: got "emulate"; allowed: ' in result.stderr
    assert "(did you mean emulated?)" in result.stderr
