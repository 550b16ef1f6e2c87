"""The page about neighbors has every option, and examples that are valid."""

import re
from pathlib import Path

import pytest
import yaml

from batcher.config import parse_config
from batcher.executor import option_problems
from batcher.executors.kserve import KserveOptions

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "neighbors.md").read_text(encoding="utf-8")


def section(name):
    """The part of the page below a heading of the second level."""
    return re.split(r"^## ", PAGE.split(f"\n## {name}\n")[1], flags=re.MULTILINE)[0]


@pytest.mark.parametrize(("name", "options"), [("kserve", KserveOptions)])
def test_every_option_is_in_the_table(name, options):
    table = section(name).split("### Options")[1].split("###")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert told == list(options.model_fields)


def test_the_example_is_a_configuration():
    match = re.search(r"<!-- example: kserve -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = parse_config(match[1], "page", {})
    assert not option_problems(KserveOptions, config.models[0].options, ROOT, files=True)


def test_the_file_of_examples_is_a_configuration():
    text = (ROOT / "examples" / "triton.yaml").read_text(encoding="utf-8")
    (model,) = parse_config(text, "triton.yaml", {}).models
    assert model.executor == "kserve"
    assert not option_problems(
        KserveOptions, yaml.safe_load(text)["models"][0]["options"], ROOT, files=True
    )
