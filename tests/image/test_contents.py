"""What is in the images, and what is not."""

import re
import stat
from pathlib import Path

import build_image
import pytest

from batcher import __version__

pytestmark = [pytest.mark.image, pytest.mark.slow]

COMPILERS = re.compile(
    r"(?:.*-)?(?:cc|gcc|g\+\+|c\+\+|clang|ld|as|make|cmake|rustc|cargo|nvcc)(?:-[\d.]+)?"
)
SYSTEM = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "var/lock")


def everything(root):
    """(path inside, its status) of all that the image has, without what a runtime mounts over."""
    for path in root.rglob("*"):
        inside = path.relative_to(root)
        if not any(inside.is_relative_to(name) for name in SYSTEM):
            yield inside, path.lstat()


def test_nothing_makes_its_caller_another_user(files):
    rights = stat.S_ISUID | stat.S_ISGID
    found = [p for p, s in everything(files) if stat.S_ISREG(s.st_mode) and s.st_mode & rights]
    assert not found


def test_the_server_can_write_to_nothing(files):
    def writable(status):
        mode = status.st_mode
        own = (status.st_uid == 65532 and mode & stat.S_IWUSR) or (
            status.st_gid == 65532 and mode & stat.S_IWGRP
        )
        return not stat.S_ISLNK(mode) and (own or mode & stat.S_IWOTH)

    assert not [path for path, status in everything(files) if writable(status)]


def test_the_server_can_read_its_environment(files):
    for path in (files / "opt" / "batcher").rglob("*"):
        needed = 0o555 if path.is_dir() else 0o444
        assert path.is_symlink() or path.stat().st_mode & needed == needed, path


def test_there_is_no_compiler(files):
    places = [files / place for place in ("usr/bin", "usr/local/bin", "opt/batcher/bin")]
    names = [program.name for place in places for program in place.iterdir()]
    assert names
    assert not [name for name in names if COMPILERS.fullmatch(name)]


def test_there_is_nothing_of_the_build(files):
    assert not (files / "build").exists()
    assert not (files / "wheels").exists()
    assert not (files / "root" / ".cache").exists()
    packages = next(files.glob("opt/batcher/lib/python3*/site-packages"))
    for name in ("pip", "setuptools", "hatchling", "pytest", "tests"):
        assert not (packages / name).exists(), name
    assert not [path for path in packages.rglob("tests") if path.is_dir()]


def test_all_is_compiled_and_taken_without_its_source(files):
    packages = next(files.glob("opt/batcher/lib/python3*/site-packages"))
    sources = list(packages.rglob("*.py"))
    assert len(sources) > 1000
    for source in sources:
        compiled = list(source.parent.glob(f"__pycache__/{source.stem}.cpython-*.pyc"))
        assert compiled, source
        # PEP 552: bit 0 is set where a hash stands for the source, bit 1 where it is compared.
        assert int.from_bytes(compiled[0].read_bytes()[4:8], "little") == 0b01, source


def test_files_have_one_time(files):
    times = {path.lstat().st_mtime for path in (files / "opt" / "batcher" / "lib").rglob("*")}
    assert times == {1767225600}


def test_variants_have_what_they_are_for(built):
    def packages(variant):
        with build_image.mounted(built(variant)) as root:
            return {
                path.name.split("-")[0] for path in root.glob("opt/batcher/lib/*/*/*.dist-info")
            }

    slim, cpu = packages("slim"), packages("cpu")
    assert cpu - slim == {"batcher_onnxruntime", "flatbuffers", "onnxruntime", "packaging"}
    assert slim >= {"batcher_serve", "aiohttp", "opentelemetry_sdk"}


def test_what_the_image_says_of_itself(image):
    said = build_image.configuration(image)
    assert said["User"] == "65532:65532"
    assert said["Entrypoint"] == ["batcher"]
    assert said["Cmd"] == ["serve", "/etc/batcher/config.yaml"]
    assert said["StopSignal"] == "SIGTERM"
    assert "PYTHONDONTWRITEBYTECODE=1" in said["Env"]
    labels = said["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.base.name"] == build_image.BASE
    assert Path("/opt/batcher/bin") in map(Path, environment(said)["PATH"].split(":"))


def environment(said):
    return dict(each.split("=", 1) for each in said["Env"])
