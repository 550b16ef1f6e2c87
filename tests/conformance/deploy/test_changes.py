"""What an operator does with the manifests: sets images, changes a configuration, checks it."""

import os
import re
import shutil
import textwrap
from pathlib import Path

import pytest
import yaml

from batcher.cli.main import app

IMAGE = "registry.example.com/team/batcher@sha256:" + "0" * 64

ELSEWHERE = ("scaler", "monitoring", "image", "compose", "fleet")
"""Folders of `deploy` that a renamed copy does without."""

pytestmark = pytest.mark.conformance


@pytest.fixture
def on_top(kustomize, deploy, tmp_path):
    """Renders a folder of `deploy` with more keys of a kustomization."""

    def build(folder, **more):
        base = os.path.relpath(deploy / folder, tmp_path)
        content = {"resources": [base]} | more
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return kustomize(tmp_path)

    return build


def containers(value):
    """Every mapping below `value` that has an image."""
    if isinstance(value, dict):
        if "image" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from containers(each)


@pytest.mark.parametrize("folder", ["single", "sidecar", "kserve"])
def test_one_image_entry_replaces_the_placeholder(on_top, folder):
    name, digest = IMAGE.split("@")
    documents = on_top(
        f"overlays/{folder}", images=[{"name": "batcher", "newName": name, "digest": digest}]
    )
    images = {each["image"] for each in containers(documents)}
    assert images - {"model:1"} == {IMAGE}


def example(page, marker):
    """The block of YAML of docs/kubernetes.md that has this text, as it is when it is no longer in a list."""
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    (found,) = [textwrap.dedent(text) for _, text in blocks if marker in text]
    return yaml.safe_load(found)


@pytest.fixture(scope="module")
def page():
    return (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text("utf-8")


def test_the_kustomization_of_the_page_renders(kustomize, deploy, page, tmp_path):
    content = example(page, "fleet/kustomization.yaml")
    for key in ("resources", "components"):
        content[key] = [
            os.path.relpath(deploy / path.removeprefix("../deploy/"), tmp_path)
            for path in content[key]
        ]
    digest = "sha256:" + "0" * 64
    content["images"][0]["digest"] = digest
    (tmp_path / "config.yaml").write_text("models: [{name: ranker, executor: emulated}]\n")
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    documents = kustomize(tmp_path)
    assert {each["metadata"]["namespace"] for each in documents} == {"ml"}
    assert {each["image"] for each in containers(documents)} == {
        f"registry.example.com/batcher@{digest}"
    }
    kinds = {each["kind"] for each in documents}
    assert {"Deployment", "ScaledObject", "PodDisruptionBudget", "NetworkPolicy"} <= kinds


def test_a_renamed_copy_shares_no_selector_with_the_first(kustomize, deploy, tmp_path):
    """As the page says to do it."""
    copy = tmp_path / "tagger"
    shutil.copytree(deploy, copy, ignore=shutil.ignore_patterns(*ELSEWHERE))
    for path in copy.rglob("*.*"):
        text = path.read_text("utf-8") if path.is_file() else ""
        if "ranker" in text:
            path.write_text(text.replace("ranker", "tagger"))
    components = ["disruption-budget", "network-policy", "pod-monitor"]
    content = {
        "namespace": "ml",
        "resources": ["tagger/overlays/sidecar"],
        "components": [*(f"tagger/components/{each}" for each in components), "tagger/scaling/hpa"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    documents = kustomize(tmp_path)
    assert "ranker" not in yaml.safe_dump(documents)
    for document in documents:
        assert document["metadata"]["name"].startswith("tagger")
        selector = document.get("spec", {}).get("selector", {})
        labels = selector.get("matchLabels", selector)
        assert labels in ({}, {"app.kubernetes.io/name": "tagger"})


def test_the_page_scales_the_deployment_that_kserve_makes(on_top, deploy, page, tmp_path):
    component = os.path.relpath(deploy / "scaling" / "keda-external", tmp_path)
    patches = example(page, "ranker-predictor")["patches"]
    documents = on_top("overlays/kserve", namespace="ml", components=[component], patches=patches)
    (scaled,) = [each for each in documents if each["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == "ranker-predictor"


def config_map(documents):
    (found,) = [each for each in documents if each["kind"] == "ConfigMap"]
    return found["metadata"]["name"]


@pytest.mark.parametrize("folder", ["single", "sidecar", "kserve"])
def test_another_configuration_is_another_rollout(on_top, folder, tmp_path):
    before = on_top(f"overlays/{folder}")
    (tmp_path / "config.yaml").write_text("models: [{name: ranker, executor: emulated}]\n")
    generated = [
        {"name": "ranker", "namespace": "ml", "behavior": "merge", "files": ["config.yaml"]}
    ]
    after = on_top(f"overlays/{folder}", configMapGenerator=generated)
    assert config_map(before) != config_map(after)
    names = [volume["configMap"]["name"] for volume in volumes(after)]
    assert names == [config_map(after)]


def volumes(value):
    """Every volume of a ConfigMap below `value`."""
    if isinstance(value, dict):
        if "configMap" in value and "name" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from volumes(each)


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs the command line in this process; its exit code and what it said."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            app([str(each) for each in args])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out + captured.err

    return run


class Mounts:
    """Folders here in the place of what a container has mounted."""

    def __init__(self, pod, container, folder):
        self.places = {}
        for mount in container.get("volumeMounts", []):
            here = folder / mount["name"]
            here.mkdir(exist_ok=True)
            self.places[mount["mountPath"]] = here
        # Where KServe puts the model.
        self.places["/mnt/models"] = folder / "fetched"
        self.places["/mnt/models"].mkdir()
        paths = "|".join(map(re.escape, self.places))
        self.pattern = re.compile(rf"(?<![\w./])({paths})(?=/)")
        for path, text in pod.files(container).items():
            Path(self.here(path)).write_text(self.here(text))
        # A model's file is looked for, and not read.
        for path in ("/models/ranker.onnx", "/mnt/models/model.onnx"):
            if path.rpartition("/")[0] in self.places:
                Path(self.here(path)).touch()

    def here(self, text):
        return self.pattern.sub(lambda found: str(self.places[found[1]]), text)


def test_the_configuration_is_accepted_with_the_files_that_are_mounted(
    rendered, check, tmp_path_factory, monkeypatch
):
    for pod in rendered.pods:
        for container in pod.containers:
            args = container.get("args", [])
            if args[:1] not in (["serve"], ["scaler"]):
                continue
            mounts = Mounts(pod, container, tmp_path_factory.mktemp("mounts"))
            for variable in container.get("env", []):
                monkeypatch.setenv(variable["name"], variable.get("value", "x"))
            command = ["check"] if args[0] == "serve" else ["scaler", "--check"]
            code, said = check(*command, mounts.here(args[-1]))
            assert code == 0, said
