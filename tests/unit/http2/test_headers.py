"""Header blocks, read against `hpack` and written for it."""

import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given
from hypothesis import strategies as st

from batcher.http2.headers import BlockError, Blocks, encode, listed_bytes

MOST = 10_000
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    (":authority", "localhost:8001"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("accept-encoding", "br"),
    ("x-note", "snow: ❄"),
)
NEVER_INDEXED = b"\x10"
SHRUNK = b"\x20"


def literal(name, value, first=b"\0"):
    return first + bytes([len(name)]) + name + bytes([len(value)]) + value


@pytest.fixture
def blocks():
    return Blocks(MOST)


@pytest.fixture
def shrunk(blocks):
    """Blocks of a client that has acknowledged the empty table, and has said so in a block."""
    blocks.acknowledged()
    assert blocks.decode(SHRUNK) == ()
    return blocks


class TestBeforeTheClientHasHeardOfTheEmptyTable:
    @pytest.mark.parametrize("huffman", [False, True])
    def test_fields_enter_the_table_and_come_from_it(self, blocks, huffman):
        encoder = Encoder()
        sizes = []
        for _ in range(3):
            block = encoder.encode(REQUEST, huffman=huffman)
            sizes.append(len(block))
            assert blocks.decode(block) == REQUEST
        assert sizes[1] == sizes[2] == len(REQUEST)

    @pytest.mark.parametrize("huffman", [False, True])
    def test_fields_that_are_never_indexed_leave_it_empty(self, blocks, huffman):
        for _ in range(2):
            block = Encoder().encode([(*each, True) for each in REQUEST], huffman=huffman)
            assert blocks.decode(block) == REQUEST

    def test_an_entry_is_named_in_a_field_that_stays_out_of_the_table(self, blocks):
        blocks.decode(literal(b"x-trace", b"1", b"\x40"))
        assert blocks.decode(b"\x0f\x2f\x012") == (("x-trace", "2"),)

    def test_an_entry_is_all_of_a_block(self, blocks):
        blocks.decode(literal(b"x-trace", b"1", b"\x40"))
        assert blocks.decode(b"\xbe") == (("x-trace", "1"),)

    def test_the_table_may_be_resized_up_to_its_first_size(self, blocks):
        encoder = Encoder()
        encoder.encode(REQUEST)
        for size in (0, 100, 4096):
            encoder.header_table_size = size
            assert blocks.decode(encoder.encode(REQUEST)) == REQUEST
        with pytest.raises(BlockError):
            blocks.decode(b"\x3f\xe2\x1f")


class TestAfterIt:
    @pytest.mark.parametrize("huffman", [False, True])
    def test_the_same_fields_are_read(self, blocks, huffman):
        encoder = Encoder()
        blocks.decode(encoder.encode(REQUEST, huffman=huffman))
        blocks.acknowledged()
        encoder.header_table_size = 0
        for _ in range(3):
            assert blocks.decode(encoder.encode(REQUEST, huffman=huffman)) == REQUEST

    def test_an_entry_of_before_is_gone(self, blocks):
        blocks.decode(literal(b"x-trace", b"1", b"\x40"))
        blocks.acknowledged()
        with pytest.raises(BlockError):
            blocks.decode(SHRUNK + b"\xbe")

    def test_the_table_may_not_grow_again(self, shrunk):
        with pytest.raises(BlockError):
            shrunk.decode(b"\x21" + literal(b"a", b"b"))

    def test_a_client_that_keeps_to_its_table_has_lost(self, blocks):
        blocks.acknowledged()
        with pytest.raises(BlockError):
            blocks.decode(literal(b"a", b"b", b"\x40"))

    def test_a_field_for_the_table_does_not_enter_it(self, shrunk):
        for _ in range(2):
            assert shrunk.decode(literal(b"x-trace", b"1", b"\x40")) == (("x-trace", "1"),)
        with pytest.raises(BlockError):
            shrunk.decode(b"\xff\x00")

    def test_the_table_is_resized_only_before_the_first_field(self, shrunk):
        assert shrunk.decode(SHRUNK + literal(b"a", b"b")) == (("a", "b"),)
        with pytest.raises(BlockError):
            shrunk.decode(literal(b"a", b"b") + SHRUNK)


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 256, 257, 383, 3000])
def test_texts_of_any_length_are_read_and_written(shrunk, length):
    fields = (("x-" + "n" * length, "v" * length), ("after", "it"))
    block = encode(fields)
    assert shrunk.decode(block) == fields
    assert Decoder().decode(block) == list(fields)


def test_a_length_in_more_bytes_than_it_needs_is_read(shrunk):
    assert shrunk.decode(b"\0\x01a\x7f\x80\x80\x00" + b"v" * 127) == (("a", "v" * 127),)


def test_a_static_name_beyond_the_prefix_is_read(shrunk):
    assert shrunk.decode(b"\x0f\x10\x04gzip") == (("content-type", "gzip"),)
    assert shrunk.decode(NEVER_INDEXED + b"\x01a\x01b") == (("a", "b"),)


@pytest.mark.parametrize("first", [b"\0", b"\x10", b"\x40"])
def test_a_block_that_is_cut_short_cannot_be_read(shrunk, first):
    block = literal(b"name", b"value", first)
    for end in range(1, len(block)):
        with pytest.raises(BlockError):
            shrunk.decode(block[:end])


def test_what_is_not_utf8_is_read_as_far_as_it_is(shrunk):
    assert shrunk.decode(b"\x00\x01a\x02\xffb") == (("a", "\N{REPLACEMENT CHARACTER}b"),)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="an index beyond the static table"),
        pytest.param(b"\xff", id="an index that goes on"),
        pytest.param(b"\x0f\x70\x01v", id="a name beyond the static table"),
        pytest.param(b"\x00\x01a\x81\x00", id="padding of Huffman that is no padding"),
        pytest.param(b"\x00\x01a\x7f\xff\xff\xff\xff\xff\xff\x7f", id="a length beyond all"),
        pytest.param(b"\x00\x01a\x7f" + b"\xff" * 20, id="a length without an end"),
    ],
)
def test_a_malformed_block_cannot_be_read(shrunk, block):
    with pytest.raises(BlockError):
        shrunk.decode(block)


def test_a_block_may_be_as_large_as_the_limit_and_no_larger(shrunk):
    field = ("x", "v" * (100 - 33))
    assert listed_bytes([field]) == 100
    fields = (field,) * (MOST // 100)
    assert shrunk.decode(encode(fields)) == fields
    with pytest.raises(BlockError):
        shrunk.decode(encode((*fields, ("", ""))))


def test_small_blocks_of_many_fields_are_over_the_limit_too(blocks):
    with pytest.raises(BlockError):
        blocks.decode(b"\x82" * 500)


def test_what_is_written_enters_no_table():
    decoder = Decoder()
    assert decoder.decode(encode(REQUEST)) == list(REQUEST)
    assert not decoder.header_table.dynamic_entries


# --- against hpack ---

names = st.sampled_from([":path", ":status", "accept", "x", "content-type"]) | st.text(
    st.characters(codec="ascii"), max_size=20
)
texts = st.sampled_from(["", "200", "POST", "application/grpc"]) | st.text(max_size=300)
fields = st.tuples(names, texts, st.booleans())
written = st.tuples(
    st.lists(fields, max_size=6),
    st.sampled_from(["plain", "huffman", "ours"]),
    st.none() | st.sampled_from([0, 64, 500, 4096]),
)


@pytest.mark.slow
@given(st.lists(written, min_size=1, max_size=8), st.integers(0, 8))
def test_a_connections_blocks_are_read_as_hpack_reads_them(story, acknowledged_at):
    encoder, reference, blocks = Encoder(), Decoder(), Blocks(10**6)
    for place, (listed, how, size) in enumerate(story):
        if place == acknowledged_at:
            blocks.acknowledged()
            reference.max_allowed_table_size = encoder.header_table_size = 0
        elif size is not None and place < acknowledged_at:
            encoder.header_table_size = size
        plain = [each[:2] for each in listed]
        if how == "ours" and place != acknowledged_at and size is None:
            block = encode(plain)
        else:
            block = encoder.encode(listed, huffman=how == "huffman")
        assert blocks.decode(block) == tuple(reference.decode(block)) == tuple(plain)


pieces = st.binary(max_size=12) | st.sampled_from(
    [
        SHRUNK,
        b"\x82",
        b"\xbe",
        literal(b"a", b"b"),
        literal(b"a", b"b", b"\x40"),
        Encoder().encode(REQUEST),
        Encoder().encode(REQUEST, huffman=False),
    ]
)


@pytest.mark.slow
@given(st.lists(st.lists(pieces, max_size=5).map(b"".join), max_size=5))
def test_any_bytes_are_read_as_hpack_reads_them_or_not_at_all(story):
    reference, blocks = Decoder(MOST), Blocks(MOST)
    for block in story:
        try:
            expected = reference.decode(block, raw=True)
        except HPACKError:
            with pytest.raises(BlockError):
                blocks.decode(block)
            return
        assert blocks.decode(block) == tuple(
            (name.decode(errors="replace"), value.decode(errors="replace"))
            for name, value in expected
        )


@pytest.mark.slow
@given(st.lists(st.lists(pieces, max_size=5).map(b"".join), max_size=5))
def test_no_bytes_raise_anything_else_once_the_table_is_empty(story):
    blocks = Blocks(MOST)
    blocks.acknowledged()
    blocks.decode(SHRUNK)
    for block in story:
        try:
            blocks.decode(block)
        except BlockError:
            return
