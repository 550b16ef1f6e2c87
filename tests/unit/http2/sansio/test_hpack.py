"""Header blocks, compared with the library `hpack`."""

import gc

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman as reference_decode
from hypothesis import given
from hypothesis import strategies as st

from batcher.http2.sansio.fields import Fields, header_list_size
from batcher.http2.sansio.frames import ConnectionFailedError, Error
from batcher.http2.sansio.hpack import (
    CACHED_BLOCKS,
    CACHED_FIELDS,
    MAX_CACHED_BLOCK_BYTES,
    TABLE_BYTES,
    HeaderDecoder,
    encode,
)
from batcher.http2.sansio.huffman import decode_huffman

MOST = 10_000
HEADER_READ_FACTOR = 100_000
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
    return HeaderDecoder(MOST, HEADER_READ_FACTOR)


def fails(blocks, block, error=Error.COMPRESSION_ERROR):
    with pytest.raises(ConnectionFailedError) as caught:
        blocks.decode(block)
    assert caught.value.error is error
    return str(caught.value)


class TestDynamicTable:
    @pytest.mark.parametrize("huffman", [False, True])
    def test_fields_enter_it_and_come_from_it(self, blocks, huffman):
        encoder = Encoder()
        sizes = []
        for _ in range(3):
            block = encoder.encode(REQUEST, huffman=huffman)
            sizes.append(len(block))
            assert blocks.decode(block).headers == REQUEST
        assert sizes[1] == sizes[2] == len(REQUEST)

    @pytest.mark.parametrize("huffman", [False, True])
    def test_never_indexed_fields_do_not_enter_it(self, blocks, huffman):
        for _ in range(2):
            block = Encoder().encode([(*each, True) for each in REQUEST], huffman=huffman)
            assert blocks.decode(block).headers == REQUEST
        fails(blocks, b"\xbe")

    def test_a_literal_may_take_its_name_from_an_entry(self, blocks):
        blocks.decode(literal(b"x-trace", b"1", b"\x40"))
        assert blocks.decode(b"\x0f\x2f\x012").headers == (("x-trace", "2"),)

    def test_a_block_may_be_one_entry(self, blocks):
        blocks.decode(literal(b"x-trace", b"1", b"\x40"))
        assert blocks.decode(b"\xbe").headers == (("x-trace", "1"),)

    def test_a_cached_block_is_dropped_when_the_table_changes(self, blocks):
        for value in (b"1", b"2", b"3"):
            blocks.decode(literal(b"x-trace", value, b"\x40"))
            for _ in range(2):
                assert blocks.decode(b"\xbe").headers == (("x-trace", value.decode()),)

    def test_a_field_larger_than_it_empties_it(self, blocks):
        blocks.decode(literal(b"a", b"1", b"\x40"))
        large = encode([("b", "v" * TABLE_BYTES)])
        blocks.decode(b"\x40" + large[1:])
        fails(blocks, b"\xbe")

    def test_the_oldest_fields_are_evicted(self, blocks):
        room = TABLE_BYTES // 64
        for number in range(room + 1):
            blocks.decode(literal(b"x" * 30, b"%02d" % number, b"\x40"))
        assert blocks.decode(bytes([0x80 | 61 + room - 1])).headers == (("x" * 30, "02"),)
        assert blocks.decode(bytes([0x80 | 61 + room])).headers == (("x" * 30, "01"),)
        fails(blocks, bytes([0x80 | 61 + room + 1]))

    def test_it_may_be_resized_up_to_its_default_size(self, blocks):
        encoder = Encoder()
        encoder.encode(REQUEST)
        for size in (0, 100, 4096):
            encoder.header_table_size = size
            assert blocks.decode(encoder.encode(REQUEST)).headers == REQUEST
        fails(blocks, b"\x3f\xe2\x1f")

    def test_it_is_resized_only_before_the_first_field(self, blocks):
        assert blocks.decode(SHRUNK + literal(b"a", b"b")).headers == (("a", "b"),)
        fails(blocks, literal(b"a", b"b") + SHRUNK)

    def test_the_size_updates_of_a_block_are_bounded(self, blocks):
        assert blocks.decode(SHRUNK * 16 + literal(b"a", b"b")).headers == (("a", "b"),)
        fails(blocks, SHRUNK * 17)

    def test_entries_are_evicted_when_it_shrinks(self, blocks):
        blocks.decode(literal(b"x-trace", b"1", b"\x40"))
        fails(blocks, SHRUNK + b"\xbe")


class TestPeers:
    """What common clients and proxies do with the table, whatever SETTINGS say."""

    FIRST = ((b":path", b"/s/M"), (b":authority", b"a:1"), (b"te", b"trailers"))
    READ = ((":path", "/s/M"), (":authority", "a:1"), ("te", "trailers"))

    def test_fields_that_enter_and_are_never_referred_to(self, blocks):
        """HAProxy 2.6 and nginx 1.22, over a connection to the server that they keep."""
        block = b"".join(literal(*each, b"\x40") for each in self.FIRST)
        for _ in range(300):
            assert blocks.decode(block).headers == self.READ

    def test_references_to_entries_of_earlier_calls(self, blocks):
        """Go 1.19's net/http, and grpcio."""
        blocks.decode(b"".join(literal(*each, b"\x40") for each in self.FIRST))
        for number in range(300):
            assert blocks.decode(b"\xc0\xbf\xbe").headers == self.READ
            once = literal(b"x-request-id", b"%d" % number)
            assert blocks.decode(b"\xc0\xbf\xbe" + once).headers[:3] == self.READ

    def test_a_client_without_a_table(self, blocks):
        block = SHRUNK + b"".join(literal(*each) for each in self.FIRST)
        for _ in range(3):
            assert blocks.decode(block).headers == self.READ
            block = block.removeprefix(SHRUNK)


class TestCaches:
    """No header outlives its connection, and a never-indexed one does not outlive its block."""

    SECRET = "Bearer not-to-be-kept"

    def kept(self, blocks):
        """All text that the decoder still refers to."""
        found, seen, waiting = [], set(), [vars(blocks)]
        while waiting:
            each = waiting.pop()
            if id(each) not in seen and isinstance(each, (dict, list, tuple, str, bytes, Fields)):
                seen.add(id(each))
                found.append(each)
                waiting += gc.get_referents(each)
        return [each for each in found if isinstance(each, (str, bytes))]

    @pytest.mark.parametrize("huffman", [False, True])
    def test_a_never_indexed_field_is_not_cached(self, blocks, huffman):
        mine = NeverIndexedHeaderTuple("authorization", self.SECRET)
        encoder = Encoder()
        for _ in range(3):
            block = encoder.encode([*REQUEST, mine], huffman=huffman)
            assert blocks.decode(block).headers[-1] == ("authorization", self.SECRET)
        for each in self.kept(blocks):
            text = each if isinstance(each, str) else each.decode("latin-1")
            assert self.SECRET not in text
            assert block[-8:].decode("latin-1") not in text

    def test_an_equal_block_comes_from_the_cache(self, blocks):
        block = encode([("x", "1")])
        assert blocks.decode(block) is blocks.decode(block)
        assert HeaderDecoder(MOST, HEADER_READ_FACTOR).decode(block) is not blocks.decode(block)

    def test_the_caches_are_bounded(self, blocks):
        for number in range(10 * CACHED_FIELDS):
            blocks.decode(encode([(f"x-{number}", "v" * 80)]))
            blocks.decode(encode([(f"x-{number}", "v" * MAX_CACHED_BLOCK_BYTES)]))
        texts = [
            each for each in self.kept(blocks) if each.count("v" if type(each) is str else b"v")
        ]
        assert len(texts) <= 2 * (CACHED_BLOCKS + CACHED_FIELDS)
        assert max(map(len, texts)) <= MAX_CACHED_BLOCK_BYTES


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 256, 257, 383, 3000])
def test_strings_of_any_length(blocks, length):
    fields = (("x-" + "n" * length, "v" * length), ("after", "it"))
    block = encode(fields)
    for _ in range(2):
        assert blocks.decode(block) == Fields(fields, header_list_size(fields), valid=True)
    assert Decoder().decode(block) == list(fields)


def test_a_length_may_have_more_bytes_than_it_needs(blocks):
    assert blocks.decode(b"\0\x01a\x7f\x80\x80\x00" + b"v" * 127).headers == (("a", "v" * 127),)


def test_a_static_name_with_a_long_index(blocks):
    assert blocks.decode(b"\x0f\x10\x04gzip").headers == (("content-type", "gzip"),)
    assert blocks.decode(NEVER_INDEXED + b"\x01a\x01b").headers == (("a", "b"),)


@pytest.mark.parametrize("first", [b"\0", b"\x10", b"\x40"])
def test_a_block_that_is_cut_short_cannot_be_read(first):
    block = literal(b"name", b"value", first)
    for end in range(1, len(block)):
        fails(HeaderDecoder(MOST, HEADER_READ_FACTOR), block[:end])


def test_invalid_utf8_is_replaced(blocks):
    (field,) = blocks.decode(b"\x00\x01a\x02\xffb").headers
    assert field == ("a", "\N{REPLACEMENT CHARACTER}b")


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="an index beyond the tables"),
        pytest.param(b"\xff\x80\x01", id="an index far beyond the tables"),
        pytest.param(b"\xff", id="an index that goes on"),
        pytest.param(b"\x0f\x70\x01v", id="a name beyond the tables"),
        pytest.param(b"\x7f\x70\x01v", id="the same for the table"),
        pytest.param(b"\x00\x01a\x81\x00", id="Huffman's padding of zeros"),
        pytest.param(b"\x00\x01a\x82\x1f\xff", id="Huffman's padding of more than 7 bits"),
        pytest.param(b"\x00\x01a\x84\xff\xff\xff\xff", id="Huffman's end"),
        pytest.param(b"\x00\x01a\x7f\xff\xff\xff\xff\xff\xff\x7f", id="a length beyond all"),
        pytest.param(b"\x00\x01a\x7f" + b"\xff" * 20, id="a length without an end"),
        pytest.param(b"\x3f\xff\xff\xff\x7f", id="a table beyond all"),
    ],
)
def test_a_malformed_block_cannot_be_read(blocks, block):
    assert fails(blocks, block).startswith("a header block is not valid HPACK: ")


class TestLargeBlocks:
    def test_fields_beyond_the_limit_are_counted_and_dropped(self, blocks):
        field = ("x", "v" * (100 - 33))
        assert header_list_size([field]) == 100
        fields = (field,) * (MOST // 100)
        assert blocks.decode(encode(fields)) == Fields(fields, MOST, valid=True)
        found = blocks.decode(encode((*fields, ("", ""), ("y", "1"))))
        assert found.headers == fields
        assert found.size == MOST + 32 + 32 + len(literal(b"y", b"1"))

    def test_dropped_fields_enter_the_table(self, blocks):
        large = encode([("x", "v" * MOST)])
        found = blocks.decode(large + literal(b"a", b"1", b"\x40") + literal(b"b", b"2"))
        assert found.headers == ()
        assert found.size > MOST
        assert blocks.decode(b"\xbe").headers == (("a", "1"),)

    @pytest.mark.parametrize("huffman", [False, True])
    def test_fields_far_beyond_the_limit_are_an_error(self, blocks, huffman):
        fields = [(f"x-{number}", "v" * 1000) for number in range(HEADER_READ_FACTOR // 1000 + 1)]
        assert blocks.decode(Encoder().encode(fields[: MOST // 1000], huffman)).size > MOST
        fails(blocks, Encoder().encode(fields, huffman), Error.ENHANCE_YOUR_CALM)

    def test_references_count_with_the_size_of_their_fields(self, blocks):
        """A bomb: an entry of 4 KB, and references of a byte each."""
        large = encode([("x", "v" * 4000)])
        blocks.decode(b"\x40" + large[1:])
        assert blocks.decode(b"\xbe" * 20).size == 20 * 4033
        fails(blocks, b"\xbe" * 100_000, Error.ENHANCE_YOUR_CALM)


def test_encoded_fields_enter_no_table():
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
    st.sampled_from(["plain", "huffman", "ours", "again"]),
    st.none() | st.sampled_from([0, 64, 500, 4096]),
)


@pytest.mark.slow
@given(st.lists(written, min_size=1, max_size=8))
def test_blocks_of_a_connection_are_decoded_as_hpack_does(story):
    encoder, reference, blocks = Encoder(), Decoder(), HeaderDecoder(10**6, 10**7)
    listed = []
    for next_listed, how, size in story:
        if how != "again":
            listed = next_listed
        if size is not None:
            encoder.header_table_size = size
        plain = [each[:2] for each in listed]
        if how == "ours" and size is None:
            block = encode(plain)
        else:
            block = encoder.encode(listed, huffman=how == "huffman")
        assert blocks.decode(block).headers == tuple(reference.decode(block)) == tuple(plain)


pieces = st.binary(max_size=12) | st.sampled_from(
    [
        SHRUNK,
        b"\x82",
        b"\xbe",
        literal(b"a", b"b"),
        literal(b"a", b"b", b"\x40"),
        literal(b"a", b"v" * 100, b"\x40"),
        b"\x3f\x11",
        b"\x3f\xe1\x1f",
        Encoder().encode(REQUEST),
        Encoder().encode(REQUEST, huffman=False),
    ]
)


@pytest.mark.slow
@given(st.lists(st.lists(pieces, max_size=5).map(b"".join), max_size=8))
def test_any_bytes_are_decoded_as_hpack_does_or_not_at_all(story):
    reference, blocks = Decoder(MOST), HeaderDecoder(MOST, HEADER_READ_FACTOR)
    for block in story:
        try:
            expected = reference.decode(block, raw=True)
        except HPACKError:
            fails(blocks, block)
            return
        assert blocks.decode(block).headers == tuple(
            (name.decode("latin-1"), value.decode(errors="replace")) for name, value in expected
        )
        held = reference.header_table
        assert blocks._table_bytes == held._current_size
        assert len(blocks._table) == len(held.dynamic_entries)


@pytest.mark.slow
@given(st.binary(max_size=40))
def test_huffman_strings_are_decoded_as_hpack_does(data):
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(data)
    assert decode_huffman(code) == data
    try:
        expected = reference_decode(data)
    except HPACKError:
        with pytest.raises(ValueError, match="the string"):
            decode_huffman(data)
    else:
        assert decode_huffman(data) == expected
