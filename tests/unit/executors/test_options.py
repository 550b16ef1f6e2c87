from pathlib import Path
from typing import Self

import pytest
from pydantic import model_validator

from batcher.errors import ModelLoadError
from batcher.executor import Duration, FilePath, LoadContext, Options, Size, read_options


class Pool(Options):
    threads: int = 1
    """Threads in the pool."""


class Sample(Options):
    path: FilePath
    """The model file."""
    wait: Duration = 1_000
    """How long to wait."""
    limit: Size = 1
    """The most bytes."""
    pools: tuple[Pool, ...] = ()
    """Pools."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.limit > 10_000:
            raise ValueError("a limit that fits")
        return self


def read(**options):
    return read_options(LoadContext("m", "1", 0, "cpu", 8, options, Path("/models")), Sample)


def refusal(**options):
    with pytest.raises(ModelLoadError) as caught:
        read(**options)
    message = str(caught.value)
    assert message.startswith("model 'm': option")
    assert "\n" not in message
    return message


def test_values_come_back_in_plain_units_and_paths_against_the_base_dir():
    options = read(path="a/b.bin", wait="5ms", limit="1KiB", pools=[{"threads": 2}])
    assert options.path == Path("/models/a/b.bin")
    assert (options.wait, options.limit) == (5_000_000, 1024)
    assert options.pools[0].threads == 2
    assert read(path="/abs.bin").path == Path("/abs.bin")


def test_a_missing_option_is_named():
    assert "option path: missing; needed: The model file" in refusal()


def test_an_unknown_option_is_reported_with_the_nearest():
    assert "option wiat: unknown key; did you mean wait?" in refusal(path="x", wiat="1ms")


def test_nested_option_is_named_with_its_place():
    message = refusal(path="x", pools=[{"threads": 1}, {"threads": "many"}])
    assert 'option pools[1].threads: got "many"' in message


def test_options_that_contradict_each_other_are_reported():
    assert "options: got" in refusal(path="x", limit="1MiB")


def test_every_wrong_option_is_reported():
    message = refusal(path=3, wait=5)
    assert "option path: got 3" in message
    assert "option wait: got 5" in message
