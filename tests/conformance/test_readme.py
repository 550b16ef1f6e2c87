"""What the README shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from batcher.testing.server import ServerProcess

ROOT = Path(__file__).parents[2]


def example(name: str) -> str:
    """The fenced block below the comment that names it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", readme, re.DOTALL)
    assert match, f"README.md has no example {name}"
    return match[1]


@pytest.fixture
def server():
    with ServerProcess(yaml.safe_load(example("config"))) as process:
        yield process


def run(server: ServerProcess, python: str | Path, name: str) -> str:
    source = example(name)
    assert "127.0.0.1:8001" in source
    done = subprocess.run(
        [python, "-c", source.replace("127.0.0.1:8001", server.grpc)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_python_client(server: ServerProcess) -> None:
    assert run(server, sys.executable, "python").split() == ["[" + "2."] + ["2."] * 14 + ["2.]"]


def test_linked_pages_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = re.findall(r"\]\(((?!http)[^)#]+)\)", readme)
    assert pages
    assert [page for page in pages if not (ROOT / page).exists()] == []


def test_every_page_is_linked() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    assert [page for page in pages if f"({page})" not in readme] == []


@pytest.mark.slow
@pytest.mark.conformance
def test_tritonclient(server: ServerProcess, tritonclient_python: Path) -> None:
    assert run(server, tritonclient_python, "tritonclient").endswith("in a batch of 1\n")
