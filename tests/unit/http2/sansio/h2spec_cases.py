"""The cases of h2spec, in its order: what a client sends behind its preface, and what comes of it.

What comes of it is an answer, the end of one stream, or the end of the connection. Frames are read
together up to a piece that is empty.
"""

import pytest
from h2spec_frames import (
    BODY,
    COMPRESSION,
    FIELDS,
    FLOW,
    MORE,
    NOTHING,
    OVERSIZED,
    PING,
    PONG,
    PROTOCOL,
    REQUEST,
    SIZE,
    UNKNOWN,
    Written,
    answers,
    ends,
    fields,
    huffman,
    literal,
    part,
    priority,
    request,
    resets,
    weighted,
)
from raw_http2 import data, numbers, opening, reset, settings, window_update

from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PADDED,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.hpack import encode

GENERIC = {
    "1: the preface": ([PING], PONG),
    "2: PRIORITY on an idle stream": ([priority(1), PING], PONG),
    "2: WINDOW_UPDATE on a half-closed stream": ([request(), window_update(1, 100)], answers(1)),
    "2: PRIORITY on a half-closed stream": ([request(), priority(1)], answers(1)),
    "2: RST_STREAM on a half-closed stream": ([request(), reset(1), PING], PONG),
    "2: PRIORITY on a closed stream": ([request(), priority(1), PING], PONG),
    "3.1: DATA": ([request(1, 0), data(1, b"test", END_STREAM)], answers(1)),
    "3.1: several of DATA": (
        [request(1, 0), data(1, b"test"), data(1, b"test", END_STREAM)],
        answers(1),
    ),
    "3.1: DATA with padding": (
        [request(1, 0), data(1, b"\x05test" + bytes(5), END_STREAM | PADDED)],
        answers(1),
    ),
    "3.2: HEADERS": ([request()], answers(1)),
    "3.2: HEADERS with padding": (
        [request(1, END_STREAM | PADDED, block=b"\x05" + REQUEST + bytes(5))],
        answers(1),
    ),
    "3.2: HEADERS with a priority": ([weighted(1, 0)], answers(1)),
    "3.3: PRIORITY 1": ([priority(1, 0, 0), request()], answers(1)),
    "3.3: PRIORITY 256": ([priority(1, 0, 255), request()], answers(1)),
    "3.3: PRIORITY with a dependency": ([priority(1, 3), request()], answers(1)),
    "3.3: PRIORITY, exclusive": ([priority(1, 0x80000003), request()], answers(1)),
    "3.3: PRIORITY of a higher stream, then HEADERS": ([priority(5, 3), request(3)], answers(3)),
    "3.4: RST_STREAM": ([request(1, 0), reset(1), PING], PONG),
    "3.5: SETTINGS": ([settings((1, 0)), PING], Written(((Frame.SETTINGS, ACK, 0, b""),))),
    "3.7: PING": ([PING], PONG),
    "3.8: GOAWAY": ([frame(Frame.GOAWAY, 0, 0, bytes(8)), PING], PONG),
    "3.9: WINDOW_UPDATE of the connection": ([window_update(0, 1), request()], answers(1)),
    "3.9: WINDOW_UPDATE of a stream": ([request(1, 0), window_update(1, 1), PING], PONG),
    "3.10: CONTINUATION": (
        [frame(Frame.HEADERS, END_STREAM, 1, REQUEST), part(1, MORE, END_HEADERS)],
        answers(1),
    ),
    "3.10: several of CONTINUATION": (
        [
            frame(Frame.HEADERS, END_STREAM, 1, REQUEST),
            part(1, MORE),
            part(1, MORE, END_HEADERS),
        ],
        answers(1),
    ),
    "4: GET": ([fields((":method", "GET"))], answers(1)),
    "4: FRAME_HEADER": ([fields((":method", "FRAME_HEADER"))], answers(1)),
    "4: POST": ([request(1, 0), data(1, b"test", END_STREAM)], answers(1)),
    "4: POST with trailers": (
        [
            request(1, 0, more=encode([("trailer", "x-test")])),
            data(1, b"test"),
            opening(1, END_STREAM, encode([("x-test", "ok")])),
        ],
        answers(1),
    ),
    "5: an indexed field": ([request(more=b"\x90")], answers(1)),
    "5: a field for the table, name indexed": ([request(more=literal(b"\x7a"))], answers(1)),
    "5: the same in Huffman's code": ([request(more=huffman(b"\x7a"))], answers(1)),
    "5: a field for the table, new name": ([request(more=literal(b"\x40", b"x"))], answers(1)),
    "5: the same, in Huffman's code": ([request(more=huffman(b"\x40", "x"))], answers(1)),
    "5: a field not for the table, name indexed": (
        [request(more=literal(b"\x0f\x2b"))],
        answers(1),
    ),
    "5: that in Huffman's code": ([request(more=huffman(b"\x0f\x2b"))], answers(1)),
    "5: a field not for the table, new name": ([request(more=literal(b"\0", b"x"))], answers(1)),
    "5: that, in Huffman's code": ([request(more=huffman(b"\0", "x"))], answers(1)),
    "5: a field never indexed, name indexed": (
        [request(more=literal(b"\x1f\x2b"))],
        answers(1),
    ),
    "5: this in Huffman's code": ([request(more=huffman(b"\x1f\x2b"))], answers(1)),
    "5: a field never indexed, new name": ([request(more=literal(b"\x10", b"x"))], answers(1)),
    "5: this, in Huffman's code": ([request(more=huffman(b"\x10", "x"))], answers(1)),
    "5: a new size of the table": ([request(block=b"\x2a" + REQUEST)], answers(1)),
    "5: several": ([request(block=b"\x20\x3f\xe1\x1f" + REQUEST)], answers(1)),
}

HTTP2 = {
    "4.1: an unknown type": ([frame(0xFF, 0, 0, bytes(8)), PING], PONG),
    "4.1: an undefined flag": ([frame(Frame.PING, 0x16, 0, b"h2-rules")], PONG),
    "4.1: a reserved bit": ([b"\0\0\x08\x06\0\x80\0\0\0h2-rules"], PONG),
    "4.2: DATA of 2^14 bytes": (
        [request(1, 0), data(1, bytes(DEFAULT_FRAME_SIZE), END_STREAM)],
        answers(1),
    ),
    "4.2: DATA of more": ([request(1, 0), frame(Frame.DATA, 0, 1, OVERSIZED)], SIZE),
    "4.2: HEADERS of more": ([frame(Frame.HEADERS, END_HEADERS, 1, OVERSIZED)], SIZE),
    "4.3: a block that cannot be read": ([opening(1, END_STREAM, b"\x40")], COMPRESSION),
    "4.3: PRIORITY within a block": (
        [frame(Frame.HEADERS, 0, 1, REQUEST), priority(1), part(1, MORE, END_HEADERS)],
        PROTOCOL,
    ),
    "4.3: HEADERS of another stream within a block": (
        [frame(Frame.HEADERS, 0, 1, REQUEST), request(3), part(1, MORE, END_HEADERS)],
        PROTOCOL,
    ),
    "5.1: idle, DATA": ([data(1, b"test", END_STREAM)], PROTOCOL),
    "5.1: idle, RST_STREAM": ([reset(1)], PROTOCOL),
    "5.1: idle, WINDOW_UPDATE": ([window_update(1, 100)], PROTOCOL),
    "5.1: idle, CONTINUATION": ([part(1, REQUEST, END_HEADERS)], PROTOCOL),
    "5.1: half-closed, DATA": (
        [request(), data(1, b"test", END_STREAM)],
        resets(1, Error.STREAM_CLOSED),
    ),
    "5.1: half-closed, HEADERS": ([request(), request()], resets(1, Error.STREAM_CLOSED)),
    "5.1: half-closed, CONTINUATION": ([request(), part(1, MORE, END_HEADERS)], PROTOCOL),
    "5.1: closed by RST_STREAM, DATA": (
        [request(1, 0), reset(1), data(1, b"test", END_STREAM)],
        resets(1, Error.STREAM_CLOSED),
    ),
    "5.1: closed by RST_STREAM, HEADERS": (
        [request(1, 0), reset(1), request()],
        ends(Error.STREAM_CLOSED),
    ),
    "5.1: closed by RST_STREAM, CONTINUATION": (
        [request(1, 0), reset(1), part(1, MORE, END_HEADERS)],
        PROTOCOL,
    ),
    "5.1: closed, DATA": (
        [request(), NOTHING, data(1, b"test", END_STREAM)],
        resets(1, Error.STREAM_CLOSED),
    ),
    "5.1: closed, HEADERS": ([request(), NOTHING, request()], ends(Error.STREAM_CLOSED)),
    "5.1: closed, CONTINUATION": ([request(), NOTHING, part(1, MORE, END_HEADERS)], PROTOCOL),
    "5.1.1: an even number": ([request(2)], PROTOCOL),
    "5.1.1: a number lower than the last": ([request(5), request(3)], PROTOCOL),
    "5.1.2: more streams than allowed": (
        [*(request(number, 0) for number in range(1, 23, 2))],
        resets(21, Error.REFUSED_STREAM),
    ),
    "5.3.1: HEADERS that depend on themselves": ([weighted(1, 1)], PROTOCOL),
    "5.3.1: PRIORITY that depends on itself": ([priority(1, 1)], PROTOCOL),
    "5.4.1: a PING that is broken": ([frame(Frame.PING, 0, 0, bytes(6))], SIZE),
    "5.5: an unknown frame": ([UNKNOWN, PING], PONG),
    "5.5: an unknown frame within a block": (
        [frame(Frame.HEADERS, 0, 1, REQUEST), UNKNOWN, part(1, MORE, END_HEADERS)],
        PROTOCOL,
    ),
    "6.1: DATA without a stream": ([data(0, b"test", END_STREAM)], PROTOCOL),
    "6.1: DATA on a stream that is not open": (
        [request(), data(1, b"test", END_STREAM)],
        resets(1, Error.STREAM_CLOSED),
    ),
    "6.1: DATA with too much padding": (
        [request(1, 0), data(1, b"\x06Test", END_STREAM | PADDED)],
        PROTOCOL,
    ),
    "6.2: HEADERS, then PRIORITY": ([frame(Frame.HEADERS, 0, 1, REQUEST), priority(1)], PROTOCOL),
    "6.2: HEADERS, then HEADERS": ([frame(Frame.HEADERS, 0, 1, REQUEST), request(3)], PROTOCOL),
    "6.2: HEADERS without a stream": ([request(0)], PROTOCOL),
    "6.2: HEADERS without a stream, and without an end": (
        [frame(Frame.HEADERS, 0, 0, REQUEST)],
        PROTOCOL,
    ),
    "6.2: HEADERS with too much padding": (
        [request(1, END_STREAM | PADDED, block=b"\xff" + REQUEST)],
        PROTOCOL,
    ),
    "6.3: PRIORITY without a stream": ([priority(0)], PROTOCOL),
    "6.3: PRIORITY of 4 bytes": ([request(), frame(Frame.PRIORITY, 0, 1, bytes(4))], SIZE),
    "6.4: RST_STREAM without a stream": ([reset(0)], PROTOCOL),
    "6.4: RST_STREAM on an idle stream": ([reset(1)], PROTOCOL),
    "6.4: RST_STREAM of 3 bytes": (
        [request(1, 0), frame(Frame.RST_STREAM, 0, 1, bytes(3))],
        SIZE,
    ),
    "6.5: SETTINGS that are acknowledged and say something": (
        [frame(Frame.SETTINGS, ACK, 0, bytes(6))],
        SIZE,
    ),
    "6.5: SETTINGS with a stream": ([frame(Frame.SETTINGS, 0, 1, bytes(6))], PROTOCOL),
    "6.5: SETTINGS that are cut short": ([frame(Frame.SETTINGS, 0, 0, bytes(3))], SIZE),
    "6.5.2: ENABLE_PUSH 2": ([settings((Setting.ENABLE_PUSH, 2))], PROTOCOL),
    "6.5.2: INITIAL_WINDOW_SIZE of 2^31": (
        [settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW + 1))],
        FLOW,
    ),
    "6.5.2: MAX_FRAME_SIZE below the least": (
        [settings((Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE - 1))],
        PROTOCOL,
    ),
    "6.5.2: MAX_FRAME_SIZE above the largest": (
        [settings((Setting.MAX_FRAME_SIZE, MAX_FRAME_SIZE + 1))],
        PROTOCOL,
    ),
    "6.5.2: an unknown setting": ([settings((0xFF, 1)), PING], PONG),
    "6.5.3: a setting that comes twice": (
        [settings((Setting.INITIAL_WINDOW_SIZE, 100), (Setting.INITIAL_WINDOW_SIZE, 1)), request()],
        Written(((Frame.DATA, 0, 1, BODY[:1]),)),
    ),
    "6.5.3: SETTINGS are acknowledged": (
        [settings((Setting.ENABLE_PUSH, 0))],
        Written(((Frame.SETTINGS, ACK, 0, b""),)),
    ),
    "6.7: PING": ([PING], PONG),
    "6.7: PING with ACK": (
        [frame(Frame.PING, ACK, 0, b"unasked!"), PING],
        PONG,
    ),
    "6.7: PING with a stream": ([frame(Frame.PING, 0, 1, bytes(8))], PROTOCOL),
    "6.7: PING of 6 bytes": ([frame(Frame.PING, 0, 0, bytes(6))], SIZE),
    "6.8: GOAWAY with a stream": ([frame(Frame.GOAWAY, 0, 1, bytes(8))], PROTOCOL),
    "6.9: WINDOW_UPDATE of 0": ([window_update(0, 0)], PROTOCOL),
    "6.9: WINDOW_UPDATE of 0 on a stream": ([request(1, 0), window_update(1, 0)], resets(1)),
    "6.9: WINDOW_UPDATE of 3 bytes": ([frame(Frame.WINDOW_UPDATE, 0, 0, bytes(3))], SIZE),
    "6.9.1: a window of 1": (
        [settings((Setting.INITIAL_WINDOW_SIZE, 1)), request()],
        Written(((Frame.DATA, 0, 1, BODY[:1]),)),
    ),
    "6.9.1: a window beyond 2^31 - 1": ([window_update(0, MAX_WINDOW)] * 2, FLOW),
    "6.9.1: a stream's window beyond 2^31 - 1": (
        [request(1, 0), window_update(1, MAX_WINDOW), window_update(1, MAX_WINDOW)],
        resets(1, Error.FLOW_CONTROL_ERROR),
    ),
    "6.9.2: a window that grows behind HEADERS": (
        [
            settings((Setting.INITIAL_WINDOW_SIZE, 0)),
            request(),
            settings((Setting.INITIAL_WINDOW_SIZE, 1)),
        ],
        Written(((Frame.DATA, 0, 1, BODY[:1]),)),
    ),
    "6.9.2: a window below 0": (
        [
            settings((Setting.INITIAL_WINDOW_SIZE, 3)),
            request(),
            NOTHING,
            settings((Setting.INITIAL_WINDOW_SIZE, 2)),
            window_update(1, 2),
        ],
        Written(((Frame.DATA, 0, 1, BODY[:3]), (Frame.DATA, 0, 1, BODY[3:4]))),
    ),
    "6.9.2: a window beyond 2^31 - 1 by SETTINGS": (
        [settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW + 1))],
        FLOW,
    ),
    "6.10: several of CONTINUATION": (
        [
            frame(Frame.HEADERS, END_STREAM, 1, REQUEST),
            part(1, MORE),
            part(1, MORE, END_HEADERS),
        ],
        answers(1),
    ),
    "6.10: CONTINUATION, then DATA": (
        [frame(Frame.HEADERS, 0, 1, REQUEST), part(1, MORE), data(1, b"test")],
        PROTOCOL,
    ),
    "6.10: CONTINUATION without a stream": (
        [frame(Frame.HEADERS, 0, 1, REQUEST), part(0, MORE, END_HEADERS)],
        PROTOCOL,
    ),
    "6.10: CONTINUATION behind whole HEADERS": (
        [request(1, 0), part(1, MORE, END_HEADERS)],
        PROTOCOL,
    ),
    "6.10: CONTINUATION behind the last": (
        [
            frame(Frame.HEADERS, 0, 1, REQUEST),
            part(1, MORE, END_HEADERS),
            part(1, MORE, END_HEADERS),
        ],
        PROTOCOL,
    ),
    "6.10: CONTINUATION behind DATA": (
        [request(1, 0), data(1, b"test"), part(1, MORE)],
        PROTOCOL,
    ),
    "7: GOAWAY with an unknown error": (
        [frame(Frame.GOAWAY, 0, 0, numbers(0, 0xFF)), PING],
        PONG,
    ),
    "7: RST_STREAM with an unknown error": ([request(1, 0), reset(1, 0xFF), PING], PONG),
    "8.1: HEADERS behind HEADERS that do not end the stream": (
        [request(1, 0), data(1, b"test"), opening(1, 0, MORE)],
        resets(1),
    ),
    "8.1.2: upper case": ([fields(("X-TEST", "ok"))], resets(1)),
    "8.1.2.1: an unknown pseudo-field": ([fields((":test", "ok"))], resets(1)),
    "8.1.2.1: a pseudo-field of answers": ([fields((":status", "200"))], resets(1)),
    "8.1.2.1: a pseudo-field in trailers": (
        [request(1, 0), data(1, b"test"), opening(1, END_STREAM, encode([(":method", "200")]))],
        resets(1),
    ),
    "8.1.2.1: a pseudo-field behind others": (
        [request(block=encode([*FIELDS[:2], ("x-test", "ok"), *FIELDS[2:]]))],
        resets(1),
    ),
    "8.1.2.2: a field of one connection": ([fields(("connection", "keep-alive"))], resets(1)),
    "8.1.2.2: TE with more than trailers": (
        [fields(("trailers", "test"), ("te", "trailers, deflate"))],
        resets(1),
    ),
    "8.1.2.3: an empty path": ([fields((":path", ""))], resets(1)),
    "8.1.2.3: no method": ([fields((":method", None))], resets(1)),
    "8.1.2.3: no scheme": ([fields((":scheme", None))], resets(1)),
    "8.1.2.3: no path": ([fields((":path", None))], resets(1)),
    "8.1.2.3: two methods": ([request(block=encode([FIELDS[0], *FIELDS]))], resets(1)),
    "8.1.2.3: two schemes": ([request(block=encode([FIELDS[1], *FIELDS]))], resets(1)),
    "8.1.2.3: two paths": ([request(block=encode([FIELDS[2], *FIELDS]))], resets(1)),
    "8.1.2.6: content-length is not that of DATA": (
        [request(1, 0, more=encode([("content-length", "1")])), data(1, b"test", END_STREAM)],
        resets(1),
    ),
    "8.1.2.6: content-length is not the sum of DATA": (
        [
            request(1, 0, more=encode([("content-length", "1")])),
            data(1, b"test"),
            data(1, b"test", END_STREAM),
        ],
        resets(1),
    ),
    "8.2: PUSH_PROMISE": ([frame(Frame.PUSH_PROMISE, END_HEADERS, 1, numbers(2))], PROTOCOL),
}

HPACK = {
    "2.3.3: an index beyond the tables": ([request(more=b"\xc6")], COMPRESSION),
    "2.3.3: a name beyond the tables": ([request(more=b"\x7f\x07\x00")], COMPRESSION),
    "4.2: a new size behind fields": ([request(more=b"\x21")], COMPRESSION),
    "5.2: padding of more than 7 bits": (
        [request(more=b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")],
        COMPRESSION,
    ),
    "5.2: padding of zeros": (
        [request(more=b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90")],
        COMPRESSION,
    ),
    "5.2: the end of the code": (
        [request(more=b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f")],
        COMPRESSION,
    ),
    "6.1: index 0": ([request(more=b"\x80")], COMPRESSION),
    "6.3: a size beyond the setting": ([request(block=b"\x3f\xe2\x1f" + REQUEST)], COMPRESSION),
}

CASES = [
    pytest.param(sent, expected, id=f"{suite} {name}")
    for suite, cases in (("generic", GENERIC), ("http2", HTTP2), ("hpack", HPACK))
    for name, (sent, expected) in cases.items()
]
