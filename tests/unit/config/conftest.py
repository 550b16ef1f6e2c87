import textwrap

import pytest

from batcher.config import parse_config
from batcher.errors import ConfigError


@pytest.fixture
def parse():
    """Parse a YAML text with an environment that the test gives."""

    def call(text, **environ):
        return parse_config(textwrap.dedent(text), "test.yaml", environ)

    return call


@pytest.fixture
def problems(parse):
    """The problems of a YAML text that has some."""

    def call(text, **environ):
        with pytest.raises(ConfigError) as caught:
            parse(text, **environ)
        return caught.value.problems

    return call


@pytest.fixture
def model(parse):
    """The one model of a configuration, its section given as flow or block YAML lines."""

    def call(lines=""):
        body = textwrap.indent(textwrap.dedent(lines), "    ")
        return parse(f"models:\n  - name: m\n    executor: emulated\n{body}").models[0]

    return call


@pytest.fixture
def model_problems(problems):
    """The problems of a model, without lines."""

    def call(lines):
        body = textwrap.indent(textwrap.dedent(lines), "    ")
        found = problems(f"models:\n  - name: m\n    executor: emulated\n{body}")
        return [f"{text.split(' (line')[0]}: {text.split('): ', 1)[1]}" for text in found]

    return call


@pytest.fixture
def server_problems(problems):
    """The problems of a server section in one flow mapping, without lines."""

    def call(flow):
        found = problems(f"server: {flow}\nmodels: [{{name: m, executor: emulated}}]")
        return [f"{text.split(' (line')[0]}: {text.split('): ', 1)[1]}" for text in found]

    return call
