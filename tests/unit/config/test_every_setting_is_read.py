"""No setting without effect: whatever the file may say, something outside the configuration reads.

Reading is found in the source: an attribute of that name is used by code that does more than show it.
"""

import ast
import inspect
from pathlib import Path

import pytest

import batcher
from batcher.buffers import Buffers
from batcher.config import ServerConfig, parse_config
from batcher.config.policies import POLICIES
from batcher.config.root import Config
from batcher.config.section import Section
from batcher.errors import ConfigError
from batcher.server.listeners import BuiltinServer, GrpcioServer

PACKAGE = Path(batcher.__file__).parent
SHOWS = {PACKAGE / "cli/check.py"}
"""What only prints settings."""


def sections(model=Config, seen=None):
    """Every section of the file, found by following annotations."""
    seen = {} if seen is None else seen
    seen[model] = None
    for field in model.model_fields.values():
        pending = [field.annotation]
        while pending:
            each = pending.pop()
            pending += getattr(each, "__args__", ())
            if isinstance(each, type) and issubclass(each, Section) and each not in seen:
                sections(each, seen)
    return list(seen)


def attributes(tree):
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def methods_of_sections(tree):
    """What the sections' own methods read, but for validators: code outside calls those."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


@pytest.fixture(scope="module")
def read():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if PACKAGE / "config" not in path.parents:
            found |= attributes(tree) if path not in SHOWS else set()
        elif path.name in {
            "model.py",
            "batching.py",
            "budget.py",
            "server.py",
            "root.py",
            "padding.py",
            "recording.py",
        }:
            found |= {name for node in methods_of_sections(tree) for name in attributes(node)}
        elif path.name == "policies.py":
            found |= attributes(tree)
    return found


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_is_read(section, read):
    keys = {f"{section.__name__}.{key}" for key in section.model_fields if key not in read}
    assert keys == set()


def test_the_walk_tells_keys_that_are_read_from_others(read):
    assert "status_codes" in read
    assert "execution_timeout" not in read  # a misspelled key, which nothing reads
    assert len(sections()) >= 12


def test_every_policy_reads_the_keys_that_it_may_have():
    """Two sections that differ in one key make different settings."""
    from batcher.config import BatchingConfig

    other = {
        "utilization_target": 0.5,
        "limit": "2s",
        "late_share": 0.1,
        "max_queue_delay": "3ms",
        "preferred_batch_sizes": [4],
    }
    for name, entry in POLICIES.items():
        target = {"target_p99": "50ms"} if name == "adaptive" else {}
        plain = BatchingConfig.model_validate({"policy": name} | target)
        for key in entry.keys:
            changed = BatchingConfig.model_validate({"policy": name, key: other[key]} | target)
            assert changed.policy_settings() != plain.policy_settings(), key


class Reads:
    """A server's section that knows which of its keys were read."""

    def __init__(self):
        self.keys = {"tls"}  # read when it starts

    def __getattr__(self, key):
        self.keys.add(key)
        return getattr(ServerConfig(), key)


def _beside(name):
    """The other arguments of a server: buffers, and functions to call on events."""
    return Buffers(1024**2) if name == "buffers" else lambda *_: None


async def test_a_key_that_one_transport_alone_reads_is_refused_under_the_other():
    read = {}
    for name, server in (("builtin", BuiltinServer), ("grpcio", GrpcioServer)):
        config = Reads()
        besides = list(inspect.signature(server).parameters)[3:]
        server([], [], config, *(_beside(name) for name in besides))
        read[name] = config.keys
    values = {"receive_timeout": "7s", "write_timeout": "7s"}
    for name, others in (("builtin", read["grpcio"]), ("grpcio", read["builtin"])):
        for key in others - read[name]:
            text = f"server: {{transport: {name}, {key}: {values[key]}}}\n"
            with pytest.raises(ConfigError, match=rf"server\.{key}"):
                parse_config(f"{text}models: [{{name: m, executor: emulated}}]")
    assert read["builtin"] - read["grpcio"] == set(values)
