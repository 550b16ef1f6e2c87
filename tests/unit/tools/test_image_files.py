"""The container image's files fit the projects. Building it: tests/image."""

import re
from pathlib import Path

import lock_image
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from batcher import __version__

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "deploy" / "image"
DOCKERFILE = (IMAGE / "Dockerfile").read_text()
LOCKS = ("build", *lock_image.PROJECTS)


def locked(variant):
    """Package -> version that an image of the variant has; each with a hash."""
    text = (IMAGE / "requirements" / f"{variant}.txt").read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry[0] != "#"]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    return dict(re.match(r"([a-z0-9.-]+)==(\S+)", entry).groups() for entry in entries)


@pytest.mark.parametrize("variant", LOCKS)
def test_what_is_locked_is_what_the_projects_ask_for(variant):
    versions = locked(variant)
    for line in lock_image.declared(variant):
        requirement = Requirement(line)
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{line}: run tools/lock_image.py"
        assert requirement.specifier.contains(version), f"{line}: run tools/lock_image.py"


def test_variants_share_what_they_have_in_common():
    slim = locked("slim").items()
    assert slim <= locked("cpu").items()
    assert slim <= locked("cuda").items()


def test_the_base_is_named_once_and_pinned():
    bases = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    stages = {name for _, name in bases}
    assert {base for base, _ in bases} <= stages | {"${PYTHON_IMAGE}"}
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.13-slim-\w+@sha256:[0-9a-f]{64}", default)
    assert f"python:{lock_image.PYTHON}-" in default


def test_the_image_has_the_version_of_the_project():
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE


def test_the_context_has_what_the_dockerfile_copies():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]
    copied = [
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == each or source.startswith(f"{each}/") for each in sent), source
