import re

import pytest

from batcher.config import json_schema


@pytest.fixture(scope="module")
def schema():
    return json_schema()


def branches(node):
    """The alternatives of a schema node, nested ones flattened."""
    if "anyOf" not in node:
        return [node]
    return [leaf for branch in node["anyOf"] for leaf in branches(branch)]


def nodes(node):
    """Every mapping in the schema."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from nodes(item)


def test_a_duration_is_text_with_a_unit_or_a_reference(schema):
    delay = schema["$defs"]["BatchingConfig"]["properties"]["max_queue_delay"]
    text, reference, zero = branches(delay)
    assert re.search(text["pattern"], "1.5ms")
    assert not re.search(text["pattern"], "50")
    assert reference == {"$ref": "#/$defs/EnvironmentReference"}
    assert zero == {"const": 0}
    assert delay["default"] == "0ms"
    assert delay["description"].startswith("`fixed` only")


def test_zero_is_offered_only_where_it_is_allowed(schema):
    timeout = schema["$defs"]["ModelConfig"]["properties"]["execute_timeout"]
    assert {"const": 0} not in branches(timeout)
    assert timeout["default"] == "30s"


def test_a_size_has_its_own_units(schema):
    text, _ = branches(schema["$defs"]["ServerConfig"]["properties"]["max_message"])
    assert re.search(text["pattern"], "64MiB")
    assert not re.search(text["pattern"], "64ms")


def test_the_known_policies_are_listed(schema):
    names, _ = branches(schema["$defs"]["BatchingConfig"]["properties"]["policy"])
    assert names["enum"] == ["adaptive", "fixed", "none"]


def test_every_section_refuses_unknown_keys(schema):
    sections = [schema, *schema["$defs"].values()]
    closed = [node.get("title") for node in sections if node.get("additionalProperties") is False]
    assert len(closed) == 26


def test_every_key_is_described(schema):
    for node in nodes(schema):
        for key, described in node.get("properties", {}).items():
            text = (
                described.get("description")
                or schema["$defs"][described["$ref"].split("/")[-1]]["description"]
            )
            assert text, key
            assert "\n" not in text


def test_every_reference_leads_somewhere(schema):
    for node in nodes(schema):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def test_internals_are_not_offered(schema):
    assert set(schema["properties"]) == {
        "server",
        "model_repository",
        "models",
        "devices",
        "journal",
        "flight_recorder",
        "tracing",
        "metrics",
    }
    assert "required" not in schema  # models, or a model_repository


def test_every_duration_and_size_has_a_unit_in_its_default_too(schema):
    """A number that the key itself would refuse is no default."""
    for section in schema["$defs"].values():
        for key, node in section.get("properties", {}).items():
            texts = [leaf for leaf in branches(node) if leaf.get("pattern", "").startswith(r"^\d+")]
            if texts and node.get("default") is not None:
                assert any(re.search(leaf["pattern"], str(node["default"])) for leaf in texts), key
