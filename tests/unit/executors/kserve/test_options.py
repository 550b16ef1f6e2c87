"""Wrong options are found without a neighbor, each with its path and what is allowed."""

import json

from batcher.cli.configuration import problems_before_loading
from batcher.config import parse_config


def problems(options):
    document = {
        "server": {"grpc": ["127.0.0.1:9001"]},
        "models": [{"name": "m", "executor": "kserve", "options": options}],
    }
    config = parse_config(json.dumps(document), "test", {})
    found = problems_before_loading(config, thorough=True)
    return {".".join(map(str, path[3:])): text for path, text in found}


def test_the_three_lines_are_enough():
    assert problems({"url": "localhost:8001"}) == {}


def test_every_wrong_option_is_found_at_once():
    found = problems(
        {
            "url": "localhost",
            "modle": "x",
            "metadata": {"te": "x", "a": "b"},
            "health_interval": 5,
            "version": 1,
        }
    )
    assert set(found) == {"url", "modle", "metadata.te.[key]", "health_interval", "version"}
    assert "did you mean model?" in found["modle"]
    assert 'got "localhost"; allowed: host:port' in found["url"]


def test_options_that_contradict_each_other():
    found = problems(
        {
            "url": "localhost:1",
            "metadata": {"a": "b"},
            "forward_metadata": ["a"],
            "max_message": "4GiB",
        }
    )
    assert found == {
        "forward_metadata.0": "got a, which metadata sets; allowed: one of them",
        "max_message": "at most 2147483647 bytes, as gRPC allows",
    }


def test_files_that_are_not_there():
    found = problems(
        {
            "url": "localhost:1",
            "config": "/none/config.pbtxt",
            "tls": {"cert": "/none/c", "key": "/none/k", "ca": "/none/a"},
            "metadata": {"a": {"file": "/none/t"}},
        }
    )
    assert set(found) == {"config", "tls.cert", "tls.key", "tls.ca", "metadata.a.file"}
    assert all("No such file" in text for text in found.values())


async def test_times_are_used(neighbor, load):
    neighbor.start()
    executor, _ = await load(health_interval="7ms", connect_timeout="3s")
    assert executor._watch._interval_s == 0.007
    assert executor._neighbor.timeout_s == 3
