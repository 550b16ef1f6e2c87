"""Messages of foreign exceptions within our own."""

import pytest

from batcher.errors import MAX_DESCRIPTION, describe, on_one_line


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
        (OSError("\udcff.onnx"), "OSError: ?.onnx"),
        (OSError("red \x1b[31m, \0, \u202e"), "OSError: red ?[31m, ?, ?"),
    ],
)
def test_a_description_is_one_line_that_can_be_sent(error, said):
    assert describe(error) == said


def test_a_description_is_shortened():
    assert len(on_one_line("ä" * 1000)) == MAX_DESCRIPTION


def test_a_message_of_any_length_becomes_a_line():
    assert on_one_line("a\nb" * 10_000_000).endswith("...")
    assert on_one_line("a" + " " * 10_000) == "a..."
    assert on_one_line("a" + " " * 1_000) == "a"
