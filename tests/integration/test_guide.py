"""The plugin that docs/writing-an-executor.md builds: written into an empty folder, and installed with pip."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml

from batcher import protocol
from batcher.config import parse_config
from batcher.protocol import inference
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "writing-an-executor.md"
WEIGHT = np.arange(6, dtype=np.float64).reshape(3, 2)
BIAS = np.array([0.5, -1.0])


def run(*command, folder, site=None, **environ):
    paths = [str(site)] if site else []
    paths += [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The guide's files in a folder that was empty, as a reader would have them, and weights."""
    folder = tmp_path_factory.mktemp("batcher-linear")
    blocks = re.findall(
        r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    for name, text in blocks:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    np.savez(folder / "linear.npz", weight=WEIGHT, bias=BIAS)
    return folder


@pytest.fixture(scope="module")
def site(plugin, tmp_path_factory):
    """Where pip has installed the plugin, without the network: the folder of its packages."""
    target = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = run("pip", "install", "--quiet", *offline, "--target", target, ".", folder=plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (target / "batcher_linear" / "device.py").is_file()
    return target


def test_guide_has_the_files_it_lists(plugin):
    files = {str(path.relative_to(plugin)) for path in plugin.rglob("*") if path.is_file()}
    listed = re.search(r"```\nbatcher-linear/\n(.*?)```", GUIDE.read_text(), re.DOTALL).group(1)
    assert {line.strip() for line in listed.splitlines()} <= files
    assert {path for path in files if "build" not in path} - {"linear.npz"} == set(listed.split())


def test_configuration_is_valid(plugin):
    linear, device = parse_config((plugin / "linear.yaml").read_text()).models
    assert linear.options == device.options == {"path": "linear.npz", "scale": 2.0}
    assert (linear.isolation, device.isolation) == ("thread", "process")
    assert device.batching.batch_sizes == (1, 4, 16)


@pytest.mark.slow
def test_it_is_found_and_its_configuration_validated(plugin, site, tmp_path):
    missing = run("batcher", "check", plugin / "linear.yaml", folder=tmp_path)
    assert missing.returncode != 0
    assert "models[0].executor" in missing.stderr, missing.stderr
    done = run("batcher", "check", "--load", plugin / "linear.yaml", folder=tmp_path, site=site)
    assert done.returncode == 0, done.stderr
    wrong = (plugin / "linear.yaml").read_text().replace("scale: 2.0", "scale: large")
    (tmp_path / "wrong.yaml").write_text(wrong.replace("linear.npz", "missing.npz"))
    done = run("batcher", "check", tmp_path / "wrong.yaml", folder=tmp_path, site=site)
    assert done.returncode != 0
    for place in (0, 1):
        assert f"models[{place}].options.scale" in done.stderr, done.stderr
    wrong = (plugin / "linear.yaml").read_text().replace("[1, 4, 16]", "[4, 1, 16]")
    (plugin / "wrong.yaml").write_text(wrong)
    done = run("batcher", "check", plugin / "wrong.yaml", folder=tmp_path, site=site)
    assert "batch_sizes" in done.stderr, done.stderr


@pytest.mark.slow
def test_it_passes_the_contract(plugin, site):
    done = run("pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests", folder=plugin, site=site)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    # The device executor has every optional part, so what is skipped is the simple one's.
    for reason in ("has no method allocate", "has no methods submit", "declares no parameters"):
        assert [line for line in skipped if reason in line], reason


def children(pid):
    """The processes that a process has started."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread has ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_it_is_served_with_every_isolation(plugin, site, isolation):
    config = yaml.safe_load((plugin / "linear.yaml").read_text())
    del config["server"]
    for model in config["models"]:
        model["isolation"] = isolation
    rows = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with ServerProcess(config, folder=plugin, environ={"PYTHONPATH": paths}) as server:
        assert bool(children(server.process.pid)) == (isolation == "process")
        with grpc.insecure_channel(server.grpc) as channel:
            infer = channel.unary_unary(
                f"/{protocol.INFERENCE}/ModelInfer",
                request_serializer=inference.ModelInferRequest.SerializeToString,
                response_deserializer=inference.ModelInferResponse.FromString,
            )
            for model in ("linear", "linear-device"):
                calls = {
                    count: infer.future(infer_request(model, {"X": rows[:count]}), timeout=60)
                    for count in (1, 2, 3, 5, 16, 40)
                }
                for count, call in calls.items():
                    answer = np.frombuffer(call.result().raw_output_contents[0], np.float32)
                    expected = 2 * (rows[:count] @ WEIGHT + BIAS)
                    np.testing.assert_allclose(
                        answer.reshape(count, 2), expected, rtol=1e-5, atol=1e-5
                    )
