"""docs/python.md: its code runs, its configurations are valid, its options are all."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from batcher import plugins
from batcher.config import parse_config
from batcher.executor import Batch, LoadContext
from batcher.executors.python import PythonExecutor
from batcher.executors.python.options import PythonOptions

PAGE = (Path(__file__).parents[4] / "docs" / "python.md").read_text(encoding="utf-8")
RULES, TOKENS, SENTIMENT = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CONFIGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def load(tmp_path):
    def load(name, source, config=None, **options):
        (tmp_path / name).write_text(source)
        given = yaml.safe_load(config)["models"][0]["options"] if config else options
        context = LoadContext("m", "1", 0, "cpu", 8, given, tmp_path)
        executor = plugins.for_model(PythonExecutor, context)()
        executor.load(context)
        return executor

    return load


def texts(*values):
    return np.array([value.encode() for value in values], object)


def test_the_rule(load):
    rule = load("rules.py", RULES, CONFIGS[0])
    amounts = np.array([5.0, 5000.0, -1.0])
    result = rule.execute(Batch({"country": texts("CH", "CH", "CH"), "amount": amounts}, 3))
    assert result.outputs["action"].tolist() == [b"approve", b"review", b""]
    assert result.row_errors == {2: "amount is negative"}


def test_the_tokenizer(load):
    args = {"words": ["the", "batch"], "length": 4}
    tokenizer = load("tokens.py", TOKENS, target="tokens.py:Tokenizer", args=args)
    outputs = tokenizer.execute(
        Batch({"text": texts("the batch", "of the batch of time")}, 2)
    ).outputs
    assert outputs["ids"].tolist() == [[2, 3, 0, 0], [1, 2, 3, 1]]
    assert outputs["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_scikit_learn(load):
    pytest.importorskip("sklearn", reason="scikit-learn is in the environment of `make runtimes`")
    model = load("sentiment.py", SENTIMENT, CONFIGS[1])
    (score,) = model.execute(Batch({"text": texts("a good day", "very bad")}, 2)).outputs.values()
    assert score[0] > score[1]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_configurations_are_valid(config):
    assert parse_config(config).models[0].executor == "python"


def test_the_options_are_all_there():
    (section,) = re.findall(r"^## Options\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE)))
    assert sorted(named) == sorted(PythonOptions.model_fields)
