"""What is rendered is what Kubernetes, KEDA, KServe and the Prometheus operator take: no key too many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import environments
import fetch_custom_schemas

VERSIONS = ("1.29", "1.37")
"""The oldest that the manifests are for (native sidecars are on by default from it on), and the newest."""

CUSTOM = {
    "ScaledObject": "keda.sh",
    "TriggerAuthentication": "keda.sh",
    "PodMonitor": "monitoring.coreos.com",
    "ServiceMonitor": "monitoring.coreos.com",
    "PrometheusRule": "monitoring.coreos.com",
    "ServingRuntime": "serving.kserve.io",
    "InferenceService": "serving.kserve.io",
}
"""Kinds that a custom resource definition brings, and its group."""

DEFINITIONS = "BATCHER_CRDS"
"""May name a folder of CustomResourceDefinitions in YAML, as those projects publish them, to check against."""

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="session")
def validate():
    """A function from `[(version, document), ...]` to what is wrong with them."""
    try:
        python = environments.interpreter("kubernetes")
    except environments.CannotMakeError as error:
        pytest.skip(str(error))

    def run(documents):
        done = subprocess.run(
            [python, Path(__file__).parent / "schemas.py"],
            input=json.dumps(documents),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def definitions():
    """`apiVersion/kind` -> the schema of its custom resource definition, or of classes made from that."""
    folder = os.environ.get(DEFINITIONS)
    if folder:
        return dict(published(Path(folder)))
    try:
        return json.loads(fetch_custom_schemas.fetch().read_text("utf-8"))
    except fetch_custom_schemas.CannotFetchError as error:
        pytest.skip(str(error))


def published(folder):
    for path in folder.glob("*.y*ml"):
        for document in yaml.load_all(path.read_text("utf-8"), yaml.CSafeLoader):
            if not document or document["kind"] != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                kind = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
                yield kind, version["schema"]["openAPIV3Schema"]


def test_built_in_kinds_are_valid_in_the_oldest_and_the_newest_version(all_rendered, validate):
    unique = {
        json.dumps(each)
        for rendered in all_rendered
        for each in rendered.documents
        if each["kind"] not in CUSTOM
    }
    assert validate([(version, json.loads(each)) for version in VERSIONS for each in unique]) == []


def test_the_pods_that_kserve_makes_are_pods(render, validate):
    (pod,) = render("overlays/kserve").pods
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.owner},
        "spec": pod.spec,
    }
    assert validate([(version, document) for version in VERSIONS]) == []


def test_a_key_too_many_is_found(validate):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a"},
        "spec": {"port": 1},
    }
    (problem,) = validate([("1.29", service)])
    assert "port" in problem


KINDS = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
    "array": list,
    "object": dict,
}


def wrong(value, schema, path="") -> list[str]:
    """What of a value its structural schema does not allow. Kubernetes drops unknown keys: here they count."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    kind = "string or number" if schema.get("x-kubernetes-int-or-string") else schema.get("type")
    if not isinstance(value, KINDS.get(kind, object)):
        return [f"{path}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    if kind == "array":
        each_of = enumerate(value)
        return [bad for n, each in each_of for bad in wrong(each, schema["items"], f"{path}[{n}]")]
    return wrong_keys(value, schema, path) if kind == "object" else []


def wrong_keys(value, schema, path):
    found = [f"{path}.{key} is missing" for key in schema.get("required", []) if key not in value]
    for key, each in value.items():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        if key in {"apiVersion", "kind", "metadata"} and not path:
            continue
        if isinstance(inner, dict):
            found += wrong(each, inner, f"{path}.{key}")
        else:
            found.append(f"{path}.{key} is not known")
    return found


def test_kinds_of_other_projects_are_what_their_definitions_say(rendered, definitions):
    documents = rendered.of(*CUSTOM)
    for document in documents:
        assert document["apiVersion"].split("/")[0] == CUSTOM[document["kind"]]
        schema = definitions[f"{document['apiVersion']}/{document['kind']}"]
        assert wrong(document, schema) == []


def test_no_kind_is_unknown(rendered):
    for document in rendered.documents:
        group = document["apiVersion"].split("/")[0]
        if "." in group and not group.endswith(".k8s.io"):
            assert CUSTOM[document["kind"]] == group


def test_the_check_of_definitions_finds_what_is_wrong():
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    assert wrong({"kind": "A", "spec": {"a": 1}}, schema) == []
    assert wrong({"kind": "A", "spec": {"b": 1}}, schema) == [".spec.b is not known"]
    assert wrong({"kind": "A", "spec": {"a": "1"}}, schema) == [".spec.a: '1' is no integer"]
