"""Values of headers are in no log, and in no memory after their connection has ended."""

import asyncio
import gc
import logging

import pytest
from hpack import Encoder, NeverIndexedHeaderTuple
from raw_http2 import all_closed, echo, unary

from batcher.http2.sansio.frames import END_HEADERS, Error, Frame, frame

SECRET = "a-secret-of-" + "the-caller"  # not one constant, as memory is searched for it
FIRST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/Echo"),
    ("content-type", "application/grpc"),
)


async def broken(request, context):
    raise ValueError("broken")


def calls():
    """Calls with a secret somewhere: their fields, and whether they are indexed."""
    yield [*FIRST, ("authorization", SECRET)]
    yield [*FIRST, NeverIndexedHeaderTuple("authorization", SECRET)]
    yield [*FIRST, ("x-mine", SECRET), ("x-mine-bin", SECRET)]
    yield [*FIRST, ("grpc-timeout", SECRET)]
    yield [*FIRST, ("grpc-encoding", SECRET)]
    yield [*FIRST[:3], ("content-type", SECRET)]
    yield [*FIRST, ("x-mine", SECRET * 1000)]
    yield [*FIRST, ("x-mine", f"{SECRET}\r\n")]
    yield [*FIRST, ("X-Mine", SECRET)]
    yield [*FIRST, (":authority", SECRET)]
    yield [*FIRST[:2], (":path", "/s/Broken"), FIRST[3], ("authorization", SECRET)]
    yield [*FIRST[:2], (":path", f"/{SECRET}"), FIRST[3]]
    yield [*FIRST[:2], FIRST[3]]


def blocks(listed):
    encoder = Encoder()
    return [encoder.encode(each, huffman) for each in listed for huffman in (False, True)]


def kept():
    """Texts with the secret that anything refers to."""
    gc.collect()
    return [
        text
        for each in gc.get_objects()
        for text in gc.get_referents(each)
        if isinstance(text, (str, bytes))
        and (SECRET in text if isinstance(text, str) else SECRET.encode() in text)
        and text is not SECRET
    ]


@pytest.fixture
async def play(serve, raw):
    """Make calls on one connection, end it with a block that cannot be read, and wait until it is gone."""
    asyncio.get_running_loop().set_debug(True)
    server, address = await serve(Echo=unary(echo), Broken=unary(broken))

    async def run(sent):
        client = await raw(address)
        for place, block in enumerate(sent):
            number = 2 * place + 1
            for start in range(0, len(block), 16_384):
                last = END_HEADERS if start + 16_384 >= len(block) else 0
                kind = Frame.CONTINUATION if start else Frame.HEADERS
                client.write(frame(kind, last, number, block[start : start + 16_384]))
            client.send(number, b"x")
            ended, _ = await client.answer(number)
            assert SECRET not in str(ended)
        client.write(frame(Frame.HEADERS, END_HEADERS, 999, b"\xff" + SECRET.encode()))
        kind, _, _, payload = (await client.ended())[-1]
        assert kind is Frame.GOAWAY
        assert payload[4:8] == Error.COMPRESSION_ERROR.to_bytes(4, "big")
        assert SECRET.encode() not in payload
        client.writer.close()
        await all_closed(server)

    return run


async def test_headers_are_in_no_log(play, caplog):
    sent = blocks(calls())  # `hpack`, with which the client encodes, logs what it does
    caplog.set_level(logging.DEBUG)
    await play(sent)
    assert "internal error in a call of /s/Broken" in caplog.text
    assert SECRET not in caplog.text
    assert not any(SECRET in repr(record.args) for record in caplog.records)


@pytest.mark.slow
async def test_headers_are_forgotten(play):
    # What logs a failure may keep its frames: this is about the server.
    await play(blocks(each for each in calls() if (":path", "/s/Broken") not in each))
    assert [text[:100] for text in kept()] == []
