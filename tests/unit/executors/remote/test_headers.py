"""Fixed headers of calls to a neighbor."""

import pytest
from pydantic import Field

from batcher.errors import ModelLoadError
from batcher.executor import Options, option_problems
from batcher.executors.remote.headers import (
    ForwardedName,
    HeaderOptions,
    Headers,
    without_secrets,
)


class Given(Options):
    metadata: HeaderOptions = Field(default_factory=dict)
    forward: tuple[ForwardedName, ...] = ()


def headers(tmp_path, **values):
    given = Given.model_validate({"metadata": values}, context={"base_dir": tmp_path})
    return Headers("m", given.metadata)


def replace(path, text):
    """Write a file as secrets are renewed: a new one takes the name."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def test_values_are_text_or_come_from_a_file(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    found = headers(
        tmp_path, authorization={"file": "token", "prefix": "Bearer "}, **{"x-tenant": "a"}
    )
    assert found.current == (("authorization", "Bearer secret"), ("x-tenant", "a"))


def test_a_changed_file_is_read_again(tmp_path):
    (tmp_path / "token").write_text("one")
    found = headers(tmp_path, authorization={"file": "token"})
    replace(tmp_path / "token", "two!")
    found.refresh()
    assert found.current == (("authorization", "two!"),)


@pytest.mark.parametrize("text", ["", "a\nb", "\N{SNOWMAN}", "x" * 70_000])
def test_a_file_that_became_unusable_keeps_the_value_and_is_told_once(tmp_path, caplog, text):
    (tmp_path / "token").write_text("secret")
    found = headers(tmp_path, authorization={"file": "token"})
    replace(tmp_path / "token", text)
    found.refresh()
    found.refresh()
    assert found.current == (("authorization", "secret"),)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "options.metadata.authorization" in message
    assert "secret" not in message


def test_a_file_that_is_not_there_fails_the_load(tmp_path):
    with pytest.raises(ModelLoadError, match=r"model 'm': options.metadata.a: cannot read .*/none"):
        headers(tmp_path, a={"file": "none"})


@pytest.mark.parametrize(
    "name",
    ["Authorization", "grpc-timeout", "te", "content-type", ":path", "a b", "x-bin", "host", ""],
)
def test_names_that_the_protocol_sets_are_refused(tmp_path, name):
    assert option_problems(Given, {"metadata": {name: "x"}}, tmp_path, files=False)
    assert option_problems(Given, {"forward": [name]}, tmp_path, files=False) or name == "x-bin"


def test_a_value_with_control_characters_is_refused(tmp_path):
    assert option_problems(Given, {"metadata": {"a": "x\ny"}}, tmp_path, files=False)


@pytest.mark.parametrize(
    "name", ["traceparent", "grpc-trace-bin", "x-user", "authorization", "te-x"]
)
def test_names_that_may_be_sent_on(tmp_path, name):
    assert not option_problems(Given, {"forward": [name]}, tmp_path, files=False)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no access for Bearer abcdefgh!", "no access for ***!"),
        ("abcdefgh is no token, abcdefgh", "*** is no token, ***"),
        ("a is the tenant", "a is the tenant"),
        ("all is well", "all is well"),
        ("a long answer, cut off: Bearer abcd...", "a long answer, cut off: ***..."),
    ],
)
def test_values_are_left_out_of_what_a_neighbor_says(said, shown):
    given = (("authorization", "Bearer abcdefgh"), ("x-tenant", "a"), ("x-data-bin", b"abc"))
    assert without_secrets(said, given) == shown
