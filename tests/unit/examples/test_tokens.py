"""Sentences become token ids of a few lengths."""

import pytest
import tokens


@pytest.mark.parametrize(
    ("count", "length"), [(2, 16), (16, 16), (17, 24), (25, 32), (97, 128), (128, 128)]
)
def test_padding_goes_to_the_next_length(count, length):
    encoded = tokens.pad(range(1, count + 1))
    assert encoded.input_ids.shape == encoded.attention_mask.shape == (1, length)
    assert encoded.input_ids[0].tolist() == [*range(1, count + 1), *[0] * (length - count)]
    assert encoded.attention_mask[0].tolist() == [1] * count + [0] * (length - count)
    assert (encoded.tokens, encoded.length) == (count, length)


def test_known_sentences():
    ids = tokens.token_ids(["Hello world!", "hello WORLD!", ""])
    assert ids == [[101, 7592, 2088, 999, 102], [101, 7592, 2088, 999, 102], [101, 102]]


def test_a_long_sentence_is_cut_and_still_ends():
    (ids,) = tokens.token_ids(["word " * 500])
    assert len(ids) == 128
    assert (ids[0], ids[-1]) == (101, 102)
