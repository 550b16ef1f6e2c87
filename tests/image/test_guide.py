"""The image that docs/image.md builds on top, with the plugin that docs/writing-an-executor.md builds."""

import re
import subprocess
import sys
from pathlib import Path

import build_image
import numpy as np
import pytest
from containers import Container

from batcher.testing.messages import infer_request, output_arrays

pytestmark = [pytest.mark.image, pytest.mark.slow]

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def on_top(built, tmp_path_factory):
    """The name of that image."""
    built("cpu")
    folder, plugin = tmp_path_factory.mktemp("on-top"), tmp_path_factory.mktemp("plugin")
    text = (DOCS / "writing-an-executor.md").read_text()
    for name, block in re.findall(
        r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    ):
        (plugin / name).parent.mkdir(parents=True, exist_ok=True)
        (plugin / name).write_text(block)
    offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    command = (sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", folder, plugin)
    subprocess.run(command, check=True)
    np.savez(folder / "linear.npz", weight=np.eye(3, 2), bias=np.zeros(2))
    (folder / "config.yaml").write_text("models: []")
    (dockerfile,) = re.findall(
        r"^```dockerfile\n(.*?)^```", (DOCS / "image.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (folder / "Dockerfile").write_text(dockerfile)
    return build_image.build("on-top", folder / "Dockerfile")


def test_an_executor_and_a_model_are_put_on_top(on_top, configured, stub):
    folder, data, _ = configured(executor="linear", options={"path": "/models/linear.npz"})
    with Container(on_top, mounts={"/etc/batcher": folder}) as container:
        container.wait_until_ready()
        request = infer_request("tested", {"X": np.ones((2, 3), np.float32)})
        (answer,) = output_arrays(stub(data).ModelInfer(request, timeout=60)).values()
        assert (answer == 1).all()
        assert container.stop() == 0, container.output()
