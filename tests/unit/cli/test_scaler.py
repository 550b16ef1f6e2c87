import json

import pytest

from batcher.scaler.config import scaler_schema

FLEET = "fleets: [{name: ranker, replicas: {static: ['127.0.0.1:8001']}%s}]\n"


@pytest.fixture
def file(tmp_path):
    """A function that writes a configuration; returns its path."""

    def write(text):
        path = tmp_path / "scaler.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_check_summarizes_a_file_that_is_right(run, file):
    path = file("listen: {grpc: ['0.0.0.0:9001']}\n" + FLEET % ", wake_for: 2m")
    result = run("scaler", "--check", path)
    assert result.exit_code == 0
    assert "grpc:  0.0.0.0:9001\nhttp:  127.0.0.1:9002\n" in result.stdout
    assert "fleet ranker: one address, asked each 1s; idle after 5m; waking: 2m\n" in result.stdout
    assert result.stdout.endswith(f"{path}: ok\n")


@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        ("{dns: 'ranker.ml.svc.:8001'}", "the addresses of ranker.ml.svc.:8001"),
        (
            "{endpoint_slices: {service: ranker, namespace: ml, port: grpc}}",
            "the EndpointSlices of ml/ranker, port grpc",
        ),
    ],
)
def test_check_says_where_replicas_are_listed(run, file, replicas, said):
    result = run(
        "scaler", "--check", file(f"fleets: [{{name: a, replicas: {replicas}, wake_for: 0}}]")
    )
    assert result.exit_code == 0, result.stderr
    assert said in result.stdout
    assert "waking: off" in result.stdout


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "serve"])
def test_a_wrong_file_is_refused_with_every_problem(run, file, check):
    path = file("listen: {htp: null}\nfleets:\n  - name: a\n    replicas: {}\n    idle_after: 5\n")
    result = run("scaler", *check, path)
    assert result.exit_code == 2
    assert "listen.htp (line 1): unknown key; did you mean http?" in result.stderr
    assert "fleets[0].replicas (line 4): got none; allowed: exactly one of" in result.stderr
    assert "fleets[0].idle_after (line 5): got 5" in result.stderr


def test_files_that_are_missing_are_named_with_their_keys(run, file):
    keys = ", tls: {ca: ca.crt}, wake_token: token"
    path = file(FLEET % keys + "listen: {tls: {cert: a.crt, key: a.key}}\n")
    result = run("scaler", "--check", path)
    assert result.exit_code == 2
    for key in ("listen.tls (line 2)", "fleets[0].tls (line 1)", "fleets[0].wake_token (line 1)"):
        assert key in result.stderr
    assert "No such file or directory" in result.stderr


def test_files_that_are_no_certificates_are_named(run, file, tmp_path):
    (tmp_path / "ca.crt").write_text("nothing of the kind")
    result = run("scaler", "--check", file(FLEET % ", tls: {ca: ca.crt}"))
    assert result.exit_code == 2
    assert "PEM" in result.stderr


def test_a_file_that_is_not_there(run, tmp_path):
    result = run("scaler", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_the_schema_of_the_file(run):
    result = run("schema", "--scaler")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == scaler_schema()
