import json

import pytest

from batcher.clock import MILLISECOND
from batcher.errors import InputError
from batcher.simulation.engine.profile import (
    ModelProfile,
    SizeProfile,
    profile_document,
    read_object,
    read_profile,
)

SIZES = {
    1: SizeProfile.of([2 * MILLISECOND]),
    8: SizeProfile.of([n * MILLISECOND for n in (4, 5, 9)]),
}
MODEL = ModelProfile("m", "1", "onnxruntime", "cpu", SIZES)


@pytest.fixture
def write(tmp_path):
    """Write a JSON file; returns its path."""

    def call(document):
        path = tmp_path / "profile.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return call


def test_a_written_profile_is_read(write):
    path = write(profile_document([MODEL]))
    assert read_profile(path) == {("m", "1"): MODEL}


def test_the_median_is_used():
    assert MODEL.medians_ns() == {1: 2 * MILLISECOND, 8: 5 * MILLISECOND}
    assert SIZES[8].mean == 6.0
    assert SIZES[8].samples == 3
    assert SIZES[8].quantiles["p50"] == 5.0
    assert SIZES[8].quantiles["p99"] == pytest.approx(8.92)


def broken(path, value):
    document = json.loads(json.dumps(profile_document([MODEL])))
    *way, last = path
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "got a JSON list; allowed: an object"),
        (broken(["version"], 2), "version: got 2; allowed: 1"),
        (broken(["models"], []), "models: got []; allowed: a list of measured models"),
        (broken(["models", 0], 3), "models[0]: got 3; allowed: an object"),
        (broken(["models", 0, "device"], None), "models[0].device: got None; allowed: a text"),
        (broken(["models", 0, "sizes"], 7), "models[0].sizes: got 7"),
        (broken(["models", 0, "sizes"], {}), "holds no service times"),
        (broken(["models", 0, "sizes", "1"], 5), "p50, size 1: got None; allowed: milliseconds"),
        (broken(["models", 0, "sizes", "1", "p95"], -1), "p95, size 1: got -1"),
        (broken(["models", 0, "sizes", "8", "samples"], 0), "sizes.8.samples: got 0"),
    ],
)
def test_an_error_names_its_place(write, document, message):
    path = write(document)
    with pytest.raises(InputError) as error:
        read_profile(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_object(tmp_path / "none.json")
