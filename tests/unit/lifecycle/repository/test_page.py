"""The page about model repositories says what is so."""

import re
from pathlib import Path

from batcher.cli.repository import checked_repository
from batcher.config import load_config, parse_config
from batcher.triton_models import ModelFiles, mapped, model_of, parse_text

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "model-repository.md").read_text(encoding="utf-8")
FROM_TRITON = (ROOT / "docs" / "coming-from-triton.md").read_text(encoding="utf-8")


def example(page, name):
    marked = rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```"
    (found,) = re.findall(marked, page, re.DOTALL)
    return found


def test_the_examples_are_configurations():
    for page, name in ((PAGE, "config"), (PAGE, "front"), (FROM_TRITON, "repository")):
        assert parse_config(example(page, name), name, {}).model_repository is not None


def test_the_example_for_triton_s_users_is_what_a_repository_makes_of_it():
    config = parse_text(example(FROM_TRITON, "config.pbtxt"))
    folder = Path("model_repository/densenet")
    files = ModelFiles("densenet", 1, folder, folder / "1", config, model_of(config))
    (written,) = parse_config(example(FROM_TRITON, "batcher.yaml"), "page", {}).models
    read = mapped(files)
    assert read.ignored == ()
    # Here what the device lacks goes to the CPU, as with Triton.
    assert read.config.options.pop("providers") == ["cuda", "cpu"]
    assert written.options.pop("providers") == ["cuda"]
    assert read.config == written


def test_the_example_in_the_repository_is_right():
    checked = checked_repository(load_config(ROOT / "examples" / "repository" / "batcher.yaml"))
    assert checked.problems == ()
    assert [each.identity for each in checked.wanted] == [("hello", "1"), ("ranker", "1")]
