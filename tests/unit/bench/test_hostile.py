"""The attackers' side of HTTP/2: it keeps within the send windows, and counts what ends."""

import pytest
from attackers import ATTACKS, floods
from hostile import Link
from hpack import Encoder
from sending import message, wide

from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    PREFACE,
    SETTING,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.protocol import inference


class Socket:
    """Keeps what is written."""

    def __init__(self):
        self.written = b""
        self.aborted = False

    def write(self, data):
        self.written += data

    def abort(self):
        self.aborted = True

    def get_write_buffer_size(self):
        return len(self.written)

    def frames(self):
        """(type, flags, stream, payload) of what was written since the last time."""
        data, self.written = self.written.removeprefix(PREFACE), b""
        found = []
        while data:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data)
            end = FRAME_HEADER.size + (high << 16 | low)
            found.append((kind, flags, stream, data[FRAME_HEADER.size : end]))
            data = data[end:]
        return found


@pytest.fixture
def socket():
    return Socket()


@pytest.fixture
async def link(socket):
    """A connection that has sent its preface."""
    made = Link()
    made.connection_made(socket)
    socket.frames()
    return made


async def test_its_settings_carry_its_window(socket):
    Link(0).connection_made(socket)
    (kind, _, _, payload), *more = socket.frames()
    assert kind == Frame.SETTINGS
    assert dict(SETTING.iter_unpack(payload))[Setting.INITIAL_WINDOW_SIZE] == 0
    assert not more


async def test_a_connection_without_a_preface_sends_nothing(socket):
    link = Link(preface=False)
    link.connection_made(socket)
    link.data_received(frame(Frame.SETTINGS, 0, 0))
    assert not socket.written


async def test_data_uses_a_window_that_the_server_enlarges(link):
    stream = link.begin("/method")
    assert link.room(stream) == DEFAULT_WINDOW
    link.data(stream, bytes(DEFAULT_WINDOW), end=False)
    assert link.room(stream) == 0
    link.data_received(frame(Frame.WINDOW_UPDATE, 0, stream, (100).to_bytes(4, "big")))
    assert link.room(stream) == 0, "the connection's is used up, too"
    link.data_received(frame(Frame.WINDOW_UPDATE, 0, 0, (70).to_bytes(4, "big")))
    assert link.room(stream) == 70


async def test_settings_change_the_send_windows_of_open_streams(link, socket):
    stream = link.begin("/method")
    socket.frames()
    link.data_received(
        frame(Frame.SETTINGS, 0, 0, SETTING.pack(Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW - 10))
    )
    assert link.room(stream) == DEFAULT_WINDOW - 10
    assert socket.frames() == [(Frame.SETTINGS, ACK, 0, b"")]


async def test_a_call_is_data_in_frames_of_the_least_size(link, socket):
    stream = link.begin("/method")
    link.data(stream, bytes(40_000), end=True)
    headers, *data = socket.frames()
    assert headers[:3] == (Frame.HEADERS, END_HEADERS, stream)
    assert [(flags, len(payload)) for _, flags, _, payload in data] == [
        (0, 16_384),
        (0, 16_384),
        (END_STREAM, 7232),
    ]


async def test_ends_of_calls_and_of_the_connection_are_counted(link):
    first, second, third = (link.begin("/method") for _ in range(3))
    trailers = Encoder().encode([(b"grpc-status", b"8")])
    link.data_received(frame(Frame.HEADERS, END_HEADERS | END_STREAM, first, trailers))
    link.data_received(frame(Frame.RST_STREAM, 0, second, (7).to_bytes(4, "big")))
    calm = bytes(4) + Error.ENHANCE_YOUR_CALM.to_bytes(4, "big")
    goaway = frame(Frame.GOAWAY, 0, 0, calm)
    link.data_received(goaway[:10])
    assert not link.gone
    link.data_received(goaway[10:])
    link.connection_lost(None)
    assert link.gone
    assert link.ended == 2
    assert link.outcomes == {
        "RESOURCE_EXHAUSTED": 1,
        "RST_STREAM REFUSED_STREAM": 1,
        "GOAWAY ENHANCE_YOUR_CALM": 1,
    }
    assert third


async def test_a_reset_call_is_not_counted_when_its_end_comes(link, socket):
    stream = link.begin("/method")
    socket.frames()
    link.reset(stream, Error.CANCEL)
    assert socket.frames() == [(Frame.RST_STREAM, 0, stream, b"\0\0\0\x08")]
    link.data_received(frame(Frame.RST_STREAM, 0, stream, bytes(4)))
    assert not link.outcomes


async def test_an_aborted_connection_sends_nothing_more(link, socket):
    link.close()
    assert link.gone
    assert socket.aborted
    link.connection_lost(ConnectionResetError())
    link.write(b"more")
    assert link.pending() == 0
    assert not link.outcomes


def test_a_request_for_large_rows_says_what_it_holds():
    request = inference.ModelInferRequest.FromString(wide(2, classes=3))
    (tensor,) = request.inputs
    assert list(tensor.shape) == [2, 1_000_000]
    assert len(request.raw_input_contents[0]) == 8_000_000
    assert request.outputs[0].parameters["classification"].int64_param == 3
    assert message(b"abc", compressed=True) == b"\1\0\0\0\3abc"


def test_each_flood_is_one_frame():
    for what, data in floods().items():
        high, low, *_ = FRAME_HEADER.unpack_from(data)
        assert len(data) == FRAME_HEADER.size + (high << 16 | low), what


def test_there_are_eight_attacks():
    assert len(ATTACKS) == 8
