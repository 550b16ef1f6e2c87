"""Proposed buckets: none of that number pads less."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import InputError
from batcher.simulation.traffic import buckets
from batcher.simulation.traffic.buckets import evenly_spaced, propose, read_lengths, waste

counts = st.dictionaries(st.integers(1, 30), st.integers(1, 9), min_size=1, max_size=7)


def padded(counted, ends):
    return sum(seen * min(e for e in ends if e >= length) for length, seen in counted.items())


@given(counts, st.integers(1, 4))
def test_no_other_buckets_of_that_number_pad_less(counted, most):
    lengths = sorted(counted)
    for number, found in enumerate(propose(counted, most), 1):
        choices = combinations(lengths[:-1], number - 1)
        best = min(padded(counted, (*choice, lengths[-1])) for choice in choices)
        assert len(found.lengths) == number
        assert padded(counted, found.lengths) == best
        own = sum(length * seen for length, seen in counted.items())
        assert found.waste == pytest.approx(1 - own / best)


@given(counts, st.integers(1, 5), st.integers(1, 8), st.none() | st.integers(1, 60))
def test_proposals_hold_everything_and_are_multiples(counted, most, multiple, longest):
    found = propose(counted, most, multiple=multiple, longest=longest)
    wastes = [each.waste for each in found]
    assert wastes == sorted(wastes, reverse=True)
    even = evenly_spaced(counted, len(found), multiple=multiple, longest=longest)
    for each in (*found, even):
        assert each.lengths[-1] >= max(longest or 0, *counted)
        assert all(length % multiple == 0 for length in each.lengths)
        assert list(each.lengths) == sorted(set(each.lengths))
    assert found[-1].waste <= even.waste + 1e-9 or len(even.lengths) < len(found[-1].lengths)


def test_too_many_lengths_are_rounded_up(monkeypatch):
    monkeypatch.setattr(buckets, "MOST_LENGTHS", 8)
    counted = dict.fromkeys(range(1, 101), 1)
    (_, two) = propose(counted, 2)
    assert two.lengths == (48, 112)
    assert two.waste == pytest.approx(waste(counted, (48, 112)))


def test_lengths_are_read_a_line_each_or_counted():
    assert read_lengths("tokens\n3\n\n5,2\n 3 \n", "f") == {3: 2, 5: 2}


@pytest.mark.parametrize("line", ["0", "x", "-1", "3,0", "3,4,5", "1.5"])
def test_a_wrong_line_is_named(line):
    with pytest.raises(InputError, match=r"f, line 2: got .*allowed: a length from 1"):
        read_lengths(f"3\n{line}\n", "f")


def test_a_file_without_lengths():
    with pytest.raises(InputError, match="f: holds no lengths"):
        read_lengths("tokens\n\n", "f")
