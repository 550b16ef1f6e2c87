import json
import re
from pathlib import Path

import pytest

from batcher.errors import ConfigError
from batcher.scaler import config
from batcher.scaler.config import MAX_FLEETS, load_scaler_config, parse_scaler_config, scaler_schema

FLEET_WITH = "fleets: [{{name: a, replicas: {{dns: 'a:1'}}, {}}}]"
FLEET = "fleets: [{name: ranker, replicas: {static: ['127.0.0.1:8001']}}]\n"


def problems(text):
    with pytest.raises(ConfigError) as raised:
        parse_scaler_config(text)
    return str(raised.value)


def test_the_least_that_a_file_says():
    config = parse_scaler_config(FLEET)
    assert config.listen.grpc == ("127.0.0.1:9001",)
    (fleet,) = config.fleets
    assert fleet.poll.interval == 1_000_000_000
    assert fleet.wake_token is None


def test_relative_files_start_at_the_folder_of_the_file(tmp_path):
    path = tmp_path / "scaler.yaml"
    path.write_text(
        "listen: {tls: {cert: tls.crt, key: /tls.key}}\n"
        "fleets: [{name: a, replicas: {dns: 'a:1'}, tls: {ca: ca.crt}, wake_token: token}]\n"
    )
    config = load_scaler_config(path)
    assert config.listen.tls.cert == tmp_path / "tls.crt"
    assert config.listen.server().tls.cert == tmp_path / "tls.crt"
    assert config.fleets[0].tls.ca == tmp_path / "ca.crt"
    assert config.fleets[0].wake_token == tmp_path / "token"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fleets: []", "at least one"),
        ("{}", "missing"),
        (FLEET + "listen: {grpc: ['127.0.0.1:1', '127.0.0.1:1']}", "listen.grpc[1] (line 2)"),
        (FLEET + "listen: {grpc: ['127.0.0.1:1'], http: '127.0.0.1:1'}", "listen.http"),
        (FLEET + "listen: {tls: {cert: a}}", "listen.tls.key"),
        (FLEET + "listen: {grpc: ['unix:/a'], tls: {cert: a, key: b}}", "no effect"),
        (FLEET + "liste: {}", "did you mean listen?"),
        (
            "fleets: [{name: a, replicas: {dns: 'a:1'}, poll: {interval: 50ms}}]",
            "fleets[0].poll.interval",
        ),
        (FLEET_WITH.format("average: 301s"), "or 1s (poll.interval) to 5m"),
        (FLEET_WITH.format("average: 900ms"), "fleets[0].average"),
        (
            FLEET_WITH.format("poll: {interval: 20s}"),
            'got "15s"; allowed: 0 for the last report alone, or 20s (poll.interval) to 5m',
        ),
        (
            FLEET_WITH.format("poll: {interval: 6m}, average: 6m"),
            'got "6m"; allowed: 0 for the last report alone',
        ),
        ("fleets: [{name: a, replicas: {dns: 'a:1'}, tls: {cert: a}}]", "no effect without key"),
        (
            "fleets: [{name: a, replicas: {dns: 'a:1'}}, {name: a, replicas: {dns: 'b:1'}}]",
            "fleets[1].name",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, said):
    assert said in problems(text)


@pytest.mark.parametrize(
    "text", ["average: 0s, poll: {interval: 1h}", "average: 1s", "average: 5m", "average: 0"]
)
def test_averages_that_make_sense(text):
    parse_scaler_config(FLEET_WITH.format(text))


def test_fleets_are_bounded():
    fleets = [
        {"name": f"f{number}", "replicas": {"dns": f"f{number}:1"}}
        for number in range(MAX_FLEETS + 1)
    ]
    assert f"at most {MAX_FLEETS}" in problems(json.dumps({"fleets": fleets}))


def test_every_key_is_read_somewhere():
    package = Path(config.__file__).parent
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
        if path.name != "config.py"
    )
    schema = scaler_schema()
    keys = {
        key
        for name, section in schema["$defs"].items()
        if name not in {"EnvironmentReference", "TlsConfig"}  # those of a server's file
        for key in section["properties"]
    }
    assert len(keys) > 20
    assert not {key for key in keys if not re.search(rf"\.{key}\b", source)}


def test_the_schema_describes_every_key():
    schema = scaler_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, described in section.get("properties", {}).items():
            assert "description" in described or "$ref" in described, key
