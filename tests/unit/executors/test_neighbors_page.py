"""The page about neighbors has every option, and examples that are valid."""

import re
from pathlib import Path

import pytest
import yaml

from batcher.config import parse_config
from batcher.executor import option_problems
from batcher.executors.http import HttpOptions
from batcher.executors.kserve import KserveOptions
from batcher.executors.torchserve import TorchserveOptions

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "neighbors.md").read_text(encoding="utf-8")


def section(name):
    """The part of the page below a heading of the second level."""
    return re.split(r"^## ", PAGE.split(f"\n## {name}\n")[1], flags=re.MULTILINE)[0]


OPTIONS = {"kserve": KserveOptions, "torchserve": TorchserveOptions, "http": HttpOptions}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_in_the_table(name):
    table = section(name).split("### Options")[1].split("###")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert told == list(OPTIONS[name].model_fields)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_example_is_a_configuration(name, tmp_path):
    (tmp_path / "key_file.json").touch()
    match = re.search(rf"<!-- example: {name} -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    (model,) = parse_config(match[1], "page", {}).models
    assert model.executor == name
    assert not option_problems(OPTIONS[name], model.options, tmp_path, files=True)


@pytest.mark.parametrize(
    ("file", "name"),
    [("triton", "kserve"), ("torchserve", "torchserve"), ("kserve-v1", "http")],
)
def test_the_file_of_examples_is_a_configuration(file, name):
    text = (ROOT / "examples" / f"{file}.yaml").read_text(encoding="utf-8")
    (model,) = parse_config(text, file, {}).models
    assert model.executor == name
    options = yaml.safe_load(text)["models"][0]["options"]
    assert not option_problems(OPTIONS[name], options, ROOT, files=True)
