"""Sentences become token ids."""

import tokens


def test_a_sentence_is_not_padded():
    (encoded,) = tokens.encode(["Hello world!"])
    assert encoded.input_ids.tolist() == [[101, 7592, 2088, 999, 102]]
    assert encoded.attention_mask.tolist() == [[1] * 5]
    assert encoded.input_ids.dtype == encoded.attention_mask.dtype == "int64"
    assert encoded.length == 5


def test_known_sentences():
    ids = tokens.token_ids(["Hello world!", "hello WORLD!", ""])
    assert ids == [[101, 7592, 2088, 999, 102], [101, 7592, 2088, 999, 102], [101, 102]]


def test_a_long_sentence_is_cut_and_still_ends():
    (ids,) = tokens.token_ids(["word " * 500])
    assert len(ids) == 128
    assert (ids[0], ids[-1]) == (101, 102)
