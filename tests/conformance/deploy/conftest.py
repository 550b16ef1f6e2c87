"""Every kustomization below `deploy/`, rendered by a real kustomize: what a cluster would be given."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import fetch_kustomize

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"

COMBINED = {
    **{
        f"{overlay}+guarded": (
            f"overlays/{overlay}",
            "components/disruption-budget",
            "components/network-policy",
            "components/pod-monitor",
        )
        for overlay in ("single", "single-gpu", "sidecar", "triton", "vllm")
    },
    **{
        f"{overlay}+gpu": (f"overlays/{overlay}", "components/gpu")
        for overlay in ("sidecar", "triton")
    },
    "scaler+monitored": ("scaler", "scaler/pod-monitor"),
    "keda-external": ("overlays/single", "scaling/keda-external"),
    "keda-to-zero": ("overlays/sidecar", "scaling/keda-external", "scaling/to-zero"),
    "keda-prometheus": ("overlays/single", "components/pod-monitor", "scaling/keda-prometheus"),
    "hpa": ("overlays/single", "components/pod-monitor", "scaling/hpa"),
    "hpa-cpu": ("overlays/single", "scaling/hpa-cpu"),
}
"""Name -> a kustomization and components on top of it, which render with something else only."""


def kustomizations():
    """Path below `deploy` -> the content of its kustomization.yaml."""
    return {
        str(path.parent.relative_to(DEPLOY)): yaml.safe_load(path.read_text("utf-8"))
        for path in sorted(DEPLOY.rglob("kustomization.yaml"))
    }


def is_component(content):
    return content.get("kind") == "Component"


def names():
    whole = [path for path, content in kustomizations().items() if not is_component(content)]
    return [*whole, *COMBINED]


def pytest_generate_tests(metafunc):
    if "rendered" in metafunc.fixturenames:
        metafunc.parametrize("rendered", names(), indirect=True, scope="session")


@dataclass(frozen=True)
class Pod:
    """A pod as a template describes it, with what is beside it in the same rendering."""

    owner: str
    namespace: str
    labels: dict
    spec: dict
    rendered: "Rendered" = field(repr=False)

    @property
    def containers(self):
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def sidecars(self):
        return [
            c for c in self.spec.get("initContainers", []) if c.get("restartPolicy") == "Always"
        ]

    def volume(self, name):
        (found,) = [each for each in self.spec.get("volumes", []) if each["name"] == name]
        return found

    def files(self, container):
        """Path in the container -> text, of what its ConfigMaps hold."""
        found = {}
        for mount in container.get("volumeMounts", []):
            source = self.volume(mount["name"]).get("configMap")
            if source is None:
                continue
            data = self.rendered.one("ConfigMap", source["name"])["data"]
            for name, text in data.items():
                found[f"{mount['mountPath']}/{name}"] = text
        return found


@dataclass(frozen=True)
class Rendered:
    """The documents of one rendering."""

    name: str
    documents: list

    def of(self, *kinds):
        return [each for each in self.documents if each["kind"] in kinds]

    def one(self, kind, name):
        found = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} {kind} {name} in {self.name}"
        return found[0]

    @cached_property
    def pods(self):
        found = []
        for document in self.of("Deployment", "StatefulSet", "Job"):
            template = document["spec"]["template"]
            meta = document["metadata"]
            labels = template["metadata"]["labels"]
            found.append(Pod(meta["name"], meta.get("namespace"), labels, template["spec"], self))
        for service in self.of("InferenceService"):
            # KServe puts the two together, and labels the pods.
            predictor = dict(service["spec"]["predictor"])
            runtime = self.one("ServingRuntime", predictor.pop("model")["runtime"])["spec"]
            name = service["metadata"]["name"]
            containers = [filled_in(each, name) for each in runtime["containers"]]
            spec = predictor | {"containers": containers, "volumes": runtime["volumes"]}
            labels = {"serving.kserve.io/inferenceservice": name}
            found.append(Pod(name, service["metadata"].get("namespace"), labels, spec, self))
        return found


def filled_in(container, name):
    """A container of a ServingRuntime with the variables that KServe knows."""
    return yaml.safe_load(yaml.safe_dump(container, width=10_000).replace("{{.Name}}", name))


@pytest.fixture(scope="session")
def kustomize():
    """Renders a folder."""
    try:
        command = fetch_kustomize.command()
    except fetch_kustomize.CannotFetchError as error:
        pytest.skip(str(error))

    def build(folder):
        done = subprocess.run(
            [*command, str(folder)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return build


@pytest.fixture(scope="session")
def render(kustomize, tmp_path_factory):
    """A function from a name to its rendering, each made once."""

    @functools.cache
    def make(name):
        if name not in COMBINED:
            return Rendered(name, kustomize(DEPLOY / name))
        folder = tmp_path_factory.mktemp("kustomization")
        whole, *components = (os.path.relpath(DEPLOY / each, folder) for each in COMBINED[name])
        content = {"namespace": "ml", "resources": [whole], "components": components}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return Rendered(name, kustomize(folder))

    return make


@pytest.fixture(scope="session")
def rendered(request, render):
    """One of all renderings."""
    return render(request.param)


@pytest.fixture(scope="session")
def all_rendered(render):
    return [render(name) for name in names()]


@pytest.fixture(scope="session")
def deploy():
    return DEPLOY


@pytest.fixture(scope="session")
def combined():
    return COMBINED
