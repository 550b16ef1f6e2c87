import builtins
import re
from pathlib import Path

import pytest

from batcher.errors import InputError
from batcher.simulation.compare.experiment import cells
from batcher.simulation.compare.plot import Plotted, draw, image_path
from batcher.simulation.compare.report import latencies_ms, summarize

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def plotted(experiment):
    """The cells of an experiment, ready to be plotted."""

    def call(*policies, **given):
        found = cells(experiment(*policies, requests=60, **given), lambda what, through: None)
        return [Plotted(summarize(cell, 600.0), latencies_ms(cell.runs)) for cell in found]

    return call


@pytest.mark.slow
def test_a_plot_of_one_rate_is_narrower_than_one_of_several(plotted, tmp_path):
    def size(path):
        assert path.read_bytes().startswith(PNG)
        return int.from_bytes(path.read_bytes()[16:20], "big")

    draw(plotted("greedy", "none"), 50.0, "one", tmp_path / "one.png")
    several = plotted("greedy", "none", rates=(100.0, 400.0))
    draw(several, None, "several", tmp_path / "several.png")
    assert size(tmp_path / "one.png") < size(tmp_path / "several.png")


@pytest.mark.slow
def test_latencies_are_labeled_in_plain_numbers(plotted, tmp_path):
    path = tmp_path / "one.svg"
    draw(plotted("greedy"), 50.0, "one", path)
    labels = re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))
    assert {"10", "20", "50"} <= set(labels)
    assert not any("10^" in label for label in labels)


def test_a_path_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    assert image_path(tmp_path / "a.svg") == tmp_path / "a.svg"
    with pytest.raises(
        InputError, match=r"--plot: got a\.csv; allowed: a file that ends in .*\.png"
    ):
        image_path(Path("a.csv"))
    with pytest.raises(InputError, match="a folder that exists"):
        image_path(tmp_path / "none" / "a.png")


@pytest.mark.slow
def test_a_plot_that_cannot_be_written_is_an_error(plotted, tmp_path):
    path = tmp_path / "a.png"
    path.mkdir()
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        draw(plotted("greedy"), None, "t", path)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install matplotlib"):
        image_path(Path("a.png"))
