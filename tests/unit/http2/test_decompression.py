"""Compressed messages, decompressed in steps of any size."""

import contextlib
import gzip
import zlib

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.http2.decompression import MAX_MEMBERS, PIECE, SLICE, Decompressor
from batcher.http2.grpc_headers import MalformedCallError

MOST = 10_000


def inflate(data, encoding, most, step=1000):
    decompressor = Decompressor(data, encoding, most)
    while not decompressor.step(step):
        assert decompressor.size <= most
    return decompressor.message()


def raw_deflate(data):
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


class TestDecompressor:
    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 50])
    @pytest.mark.parametrize(
        ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
    )
    def test_a_compressed_message_is_restored(self, encoding, compress, data):
        for step in (1, 1000, 2**20):
            assert inflate(compress(data), encoding, len(data), step) == data

    @pytest.mark.parametrize(
        ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
    )
    def test_a_truncated_message_is_refused(self, encoding, compress):
        whole = compress(bytes(range(256)))
        for end in range(len(whole)):
            with pytest.raises(MalformedCallError) as caught:
                inflate(whole[:end], encoding, MOST)
            assert caught.value.code is grpc.StatusCode.INTERNAL

    @pytest.mark.parametrize(
        ("encoding", "data"),
        [
            ("gzip", b"no gzip at all"),
            ("gzip", zlib.compress(b"x")),
            ("deflate", gzip.compress(b"x", mtime=0)),
            ("deflate", raw_deflate(b"x" * 100)),
            ("gzip", gzip.compress(b"x", mtime=0)[:-8] + bytes(8)),
        ],
    )
    def test_a_message_that_is_not_compressed_is_refused(self, encoding, data):
        with pytest.raises(MalformedCallError, match=encoding) as caught:
            inflate(data, encoding, MOST)
        assert caught.value.code is grpc.StatusCode.INTERNAL

    @pytest.mark.parametrize(
        ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
    )
    def test_a_message_may_be_as_large_as_allowed_and_no_larger(self, encoding, compress):
        assert len(inflate(compress(bytes(MOST)), encoding, MOST)) == MOST
        for size in (MOST + 1, 1000 * MOST):
            with pytest.raises(MalformedCallError, match="larger than max") as caught:
                inflate(compress(bytes(size)), encoding, MOST)
            assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("encoding", ["identity", ""])
    def test_a_compressed_message_has_an_encoding(self, encoding):
        with pytest.raises(MalformedCallError, match="without the header grpc-encoding") as caught:
            inflate(gzip.compress(b"x"), encoding, MOST)
        assert caught.value.code is grpc.StatusCode.INTERNAL

    @given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
    def test_any_bytes_are_read_or_refused(self, data, encoding):
        for each in (data, gzip.compress(data)[:10] + data, zlib.compress(data)[:2] + data):
            with contextlib.suppress(MalformedCallError):
                assert len(inflate(each, encoding, 50)) <= 50

    def test_a_step_makes_no_more_than_its_size(self):
        decompressor = Decompressor(gzip.compress(bytes(MOST)), "gzip", MOST)
        assert not decompressor.step(100)
        assert decompressor.size == 100
        assert not decompressor.step(MOST - 101)
        assert decompressor.step(100)
        assert decompressor.message() == bytes(MOST)

    def test_a_message_is_in_memory_once(self):
        decompressor = Decompressor(gzip.compress(bytes(3 * PIECE)), "gzip", 3 * PIECE)
        assert decompressor.step(3 * PIECE + 1)
        assert decompressor.message() is decompressor.message()
        assert decompressor.message() == bytes(3 * PIECE)

    def test_incompressible_data_is_read_in_slices(self):
        data = bytes(i * i % 251 for i in range(3 * SLICE))
        stored = zlib.compress(data, 0)
        assert inflate(stored, "deflate", len(data), 2**16) == data

    def test_members_of_gzip_are_one_message(self):
        parts = [b"one", b"", b"three" * 100]
        whole = b"".join(map(gzip.compress, parts))
        for step in (1, 1000):
            assert inflate(whole, "gzip", MOST, step) == b"".join(parts)

    def test_members_are_bounded(self):
        assert inflate(MAX_MEMBERS * gzip.compress(b"x"), "gzip", MOST) == MAX_MEMBERS * b"x"
        with pytest.raises(MalformedCallError, match="bytes behind the end") as caught:
            inflate((MAX_MEMBERS + 1) * gzip.compress(b"x"), "gzip", MOST)
        assert caught.value.code is grpc.StatusCode.INTERNAL

    @pytest.mark.parametrize(
        ("encoding", "whole"),
        [
            ("gzip", gzip.compress(b"x") + b"rest"),
            ("gzip", gzip.compress(b"x") + gzip.compress(b"y")[:-1]),
            ("deflate", zlib.compress(b"x") + b"rest"),
            ("deflate", zlib.compress(b"x") + zlib.compress(b"y")),
        ],
    )
    def test_bytes_behind_a_message_are_refused(self, encoding, whole):
        for step in (1, 1000):
            with pytest.raises(MalformedCallError, match=encoding) as caught:
                inflate(whole, encoding, MOST, step)
            assert caught.value.code is grpc.StatusCode.INTERNAL
