"""The benchmark beside other servers: its search, its connections, its tables, and itself on ours."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import http1
import measure
import numpy as np
import open_loop
import processes
import pytest
import questions
import search_rate
import servers
import table
from callers import Asked, AskingConnection, caller
from http2 import Request
from measure import Session, Tuning
from trial import Durations

from batcher.http2.sansio.frames import END_HEADERS, END_STREAM, Frame, frame
from batcher.http2.sansio.hpack import encode
from batcher.protocol import inference


def holding(limit):
    """A server that holds exactly that rate, and what it was asked."""
    asked = []

    async def holds(rate):
        asked.append(rate)
        return rate <= limit

    return holds, asked


@pytest.mark.parametrize("limit", [12.0, 57.0, 433.0, 1400.0])
@pytest.mark.parametrize("guess", [10.0, 400.0, 1500.0])
async def test_search_finds_the_highest_rate(limit, guess):
    holds, asked = holding(limit)
    found = await search_rate.highest(holds, guess=guess, least=10.0, most=1500.0)
    assert found <= limit < found * 1.031
    assert len(asked) < 16


async def test_search_near_its_guess_takes_few_rounds():
    holds, asked = holding(433.0)
    await search_rate.highest(holds, guess=430.0, least=10.0, most=1500.0)
    assert len(asked) <= 5


@pytest.mark.parametrize(("limit", "found"), [(5.0, 0.0), (9_999.0, 1500.0)])
async def test_search_ends_at_its_bounds(limit, found):
    holds, _ = holding(limit)
    assert await search_rate.highest(holds, guess=300.0, least=10.0, most=1500.0) == found


@pytest.mark.parametrize("rounds", range(5))
async def test_search_ends_when_it_is_told_to(rounds):
    holds, asked = holding(433.0)
    found = await search_rate.highest(
        holds, guess=300.0, least=10.0, most=1500.0, stop=lambda: len(asked) >= rounds
    )
    assert len(asked) == rounds
    assert found == max((rate for rate in asked if rate <= 433.0), default=0.0)


async def test_best_setting_is_kept_and_the_others_know_what_to_beat():
    beaten = []

    async def measure(setting, best_rate):
        beaten.append(best_rate)
        return {"a": 100.0, "b": 300.0, "c": 200.0}[setting]

    assert await search_rate.best(["a", "b", "c"], measure) == ("b", 300.0, [100.0, 300.0, 200.0])
    assert beaten == [0.0, 100.0, 300.0]


def test_questions_differ_and_know_their_answers():
    x = questions.rows(3, seed=7)
    first, second, _ = questions.binary(3, seed=7)
    assert first.sent != second.sent
    assert np.array_equal(np.frombuffer(first.expected, "<f4"), 2 * x[0])
    text = questions.text(3, seed=7)[0]
    assert json.loads(b"[" + text.expected + b"]") == (2 * x[0]).tolist()


def test_template_is_a_request_of_the_protocol_and_takes_each_x():
    protocol = questions.open_inference("doubling")
    (question,) = questions.binary(1, seed=1)
    request = inference.ModelInferRequest.FromString(
        protocol.message.replace(questions.MARK.tobytes(), question.sent)
    )
    assert request.model_name == "doubling"
    assert request.raw_input_contents == [question.sent]


def answer(stream, message, status="0"):
    """The frames of a gRPC answer."""
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return b"".join(
        (
            frame(Frame.HEADERS, END_HEADERS, stream, encode([(":status", "200")])),
            frame(Frame.DATA, 0, stream, body),
            frame(
                Frame.HEADERS, END_HEADERS | END_STREAM, stream, encode([("grpc-status", status)])
            ),
        )
    )


@pytest.mark.parametrize(
    ("message", "status", "failure"),
    [
        (lambda asked: asked[0].expected, "0", ""),
        (lambda asked: asked[1].expected, "0", "a wrong answer"),
        (lambda asked: asked[0].sent, "0", "a wrong answer"),
        (lambda asked: b"", "8", "RESOURCE_EXHAUSTED"),
    ],
)
def test_grpc_answers_are_compared_with_their_own_question(message, status, failure):
    protocol = questions.open_inference("doubling")
    connection = AskingConnection(Request.encode("a", protocol.method, protocol.message))
    asked = questions.binary(2, seed=3)
    for place, question in enumerate(asked):
        connection.send(Asked(place, 0, question=question))
    sent = connection.take()
    assert all(question.sent in sent for question in asked)
    assert questions.MARK.tobytes() not in sent
    ((call, found),) = connection.receive(answer(1, message(asked), status))
    assert (call.place, found) == (0, failure)


def test_http_answers_come_in_pieces_and_in_chunks():
    reader = http1.AnswerReader()
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert not any(reader.feed(whole[at : at + 1]) for at in range(len(whole) - 1))
    assert reader.feed(b"o") == http1.Answer(200, b"hello", keep=True)
    chunked = (
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    )
    assert reader.feed(chunked[:-4]) is None
    assert reader.began
    assert reader.feed(chunked[-4:]) == http1.Answer(503, b"hello", keep=False)
    assert not reader.began


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
)
def test_what_is_no_http_answer_is_an_error(data):
    with pytest.raises(http1.BadAnswerError):
        http1.AnswerReader().feed(data)


class Doubling(asyncio.Protocol):
    """An HTTP server that doubles, but for the requests that it is told to spoil."""

    def __init__(self, spoil):
        self._spoil = spoil

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        x = json.loads(data.partition(b"\r\n\r\n")[2])["x"]
        y = [each * 2 + (1 if self._spoil(x) else 0) for each in x]
        body = json.dumps({"y": y}).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )


@pytest.mark.slow
async def test_round_over_http_counts_wrong_answers_as_failures():
    loop = asyncio.get_running_loop()
    spoiled = set()

    def spoil(x):
        if int(x[0]) % 4:
            return False
        spoiled.add(x[0])
        return True

    server = await loop.create_server(lambda: Doubling(spoil), "127.0.0.1", 0)
    async with server:
        found = await open_loop.play(
            server.sockets[0].getsockname(),
            questions.Http("/", b'{"x": [%s]}'),
            200.0,
            0.2,
            seed=5,
            stop_early=False,
            server_cpu=lambda: 0.0,
        )
    assert found.failed["a wrong answer"] == found.failed.total() > 0
    assert found.on_time + found.late + found.failed.total() == found.requests
    assert not found.holds
    assert spoiled


@pytest.mark.slow
async def test_round_without_answers_is_lost():
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with server:
        found = await open_loop.play(
            server.sockets[0].getsockname(),
            questions.Http("/", b'{"x": [%s]}'),
            100.0,
            0.05,
            seed=5,
            stop_early=False,
            server_cpu=lambda: 0.0,
        )
    assert found.failed == {"no answer": found.requests}
    assert found.in_time_a_second == 0


async def test_nothing_that_listens_is_an_error():
    load = caller(("127.0.0.1", processes.free_port()), questions.Http("/", b"%s"), lambda *_: None)
    with pytest.raises(ConnectionRefusedError):
        await load.open()


def played(rate, capacity, in_time=None):
    """A round of a server that takes `capacity`, and answers so many in time when asked for more."""
    held = rate <= capacity
    on_time = 1000 if held else round(1000 * (capacity if in_time is None else in_time) / rate)
    return open_loop.Round(
        rate, 1000, on_time, 1000 - on_time, open_loop.Counter(), {}, {}, 0.1, 100.0, 1.0
    )


class FakeSession:
    """Instead of a server: `delay` decides how much it takes, `queue` what is in time of too much."""

    def __init__(self, server, settings, *_):
        self._settings = settings
        self.start_s = 1.0
        if settings["delay"] == 7:
            raise measure.NotStartedError("no delay of 7")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def throughput(self):
        return 500.0

    async def round(self, rate, seconds, **_):
        capacity = {1: 300.0, 5: 700.0, 9: 690.0}[self._settings["delay"]]
        return played(rate, capacity, {0: 0.0, 32: 650.0, 64: 400.0}[self._settings["queue"]])

    async def holds(self, rate, seconds):
        return (await self.round(rate, seconds)).holds


async def test_settings_are_tried_stage_by_stage_and_the_best_kept(monkeypatch):
    monkeypatch.setattr(measure, "Session", FakeSession)
    server = servers.Server(
        "x", "X", None, "x", "gRPC", questions.open_inference("x"), None,
        {"delay": 5, "queue": 0},
        [[{"delay": 1}, {"delay": 7}, {}], [{"delay": 9}]],
        [{"queue": 32}, {"queue": 64}],
        "",
    )  # fmt: skip
    tuning = Tuning(server, Path("python"), 0, Durations())
    await tuning.run()
    assert tuning.settings == {"delay": 5, "queue": 32}
    assert tuning.rate == pytest.approx(700, rel=0.06)
    tried = [
        (row["settings"]["delay"], row.get("highest"), row.get("failed")) for row in tuning.tried
    ]
    assert tried[1] == (7, None, "no delay of 7")
    assert tried[3][1].startswith("not ")
    assert [row["in_time_under_overload"] for row in tuning.tried[4:]] == [0, 650, 400]


async def test_a_server_that_never_starts_says_why(monkeypatch):
    monkeypatch.setattr(measure, "Session", FakeSession)
    server = servers.Server(
        "x", "X", None, "x", "gRPC", questions.open_inference("x"), None,
        {"delay": 7, "queue": 0}, [[{}]], [], "",
    )  # fmt: skip
    with pytest.raises(measure.NotStartedError, match="no delay of 7"):
        await Tuning(server, Path("python"), 0, Durations()).run()


@pytest.fixture
def core():
    """Where the server of a test may run: anywhere would do."""
    return min(os.sched_getaffinity(0))


@pytest.mark.slow
async def test_this_server_is_measured(core):
    (ours, *_) = servers.SERVERS
    durations = Durations(warm=0.2)
    async with Session(ours, ours.defaults, Path(sys.executable), core, durations) as session:
        found = await session.round(50.0, 0.2, stop_early=False)
    assert not found.failed
    assert found.on_time + found.late == found.requests > 0
    assert not [pid for pid in processes.descendants() if "batcher" in command_of(pid)]


def command_of(pid):
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_processes_that_leave_their_group_are_ended_too():
    # Adopting orphans is for a process of its own, not for the one that runs the tests.
    code = """
import sys, time
from pathlib import Path
from processes import NotStartedError, Processes, adopt_orphans, descendants
import os, tempfile
adopt_orphans()
program = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True)"
with tempfile.TemporaryDirectory() as folder:
    core = min(os.sched_getaffinity(0))
    with Processes([sys.executable, "-c", program], {}, Path(folder), core) as running:
        while not running.ended:
            time.sleep(0.01)
        assert len(descendants()) == 1, descendants()
    assert not descendants()
print("none left")
"""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "none left\n", done.stderr


def row(title, highest, **rest):
    """A server's figures."""
    a_round = {
        "rate": 1.5 * highest,
        "requests": 1000,
        "on_time_share": 0.7,
        "in_time_a_second": 1.05 * highest,
        "late": 200,
        "failed": {"RESOURCE_EXHAUSTED": 100},
        "latency_ms": {"p50": 10.0, "p99": 20.04},
        "server_us_a_request": 512.0,
        "load_busy": 0.1,
    }
    return {
        "title": title,
        "version": "1.0",
        "transport": "gRPC",
        "settings": {"delay": 5, "fast": True, "limit": None},
        "highest": highest,
        "highest_each": [highest, highest],
        "at_same_rate": a_round | {"on_time_share": 1.0},
        "at_highest": a_round,
        "overload": a_round,
    } | rest


RESULTS = {
    "servers": {
        "slow": row("Slow", 100.0),
        "gone": {"title": "Gone", "version": "", "transport": "HTTP", "why": "pip: a | b\nmore"},
        "fast": row("Fast", 1200.0),
        "never": row("Never", 0.0, at_highest=None),
    },
    "same_rate": 200.0,
    "device_limit": 1523.8,
    "target_ms": 50.0,
}


def test_tables_name_every_server_the_best_first():
    lines = table.short(RESULTS).splitlines()
    assert [line.split("|")[1].split()[0] for line in lines[2:]] == [
        "Fast",
        "Slow",
        "Never",
        "Gone",
    ]
    assert lines[2] == ("| Fast 1.0 | gRPC | 1,200 | 10.0, 20.0 ms | 1,260 of 1,800 | 0.51 ms |")
    assert "not measured: pip: a \\| b" in lines[5]
    assert {line.replace("\\|", "").count("|") for line in lines} == {7}
    long = table.long(RESULTS).splitlines()
    assert "`delay: 5`, `fast: true`, `limit: null`" in long[2]
    assert "70%, 20%, 10%" in long[2]
    assert {line.replace("\\|", "").count("|") for line in long} == {7}


def test_latency_of_few_answers_says_how_few():
    found = row("Slow", 100.0)
    found["at_same_rate"]["on_time_share"] = 0.4
    assert "| 10.0, 20.0 ms, 40% in time |" in table.short(RESULTS | {"servers": {"slow": found}})


def test_table_takes_its_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- peers -->\nold\n<!-- /peers -->\n\nb\n")
    for _ in range(2):
        table.into(page, "peers", "| t |")
    assert page.read_text() == "a\n\n<!-- peers -->\n\n| t |\n\n<!-- /peers -->\n\nb\n"
    with pytest.raises(ValueError, match="no place for other"):
        table.into(page, "other", "| t |")


@pytest.mark.slow
def test_picture_is_drawn(tmp_path):
    table.picture(RESULTS, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_pages_have_a_place_for_each_table(tmp_path):
    path = Path(__file__).parents[3] / "bench" / "peers" / "__main__.py"
    spec = importlib.util.spec_from_file_location("bench_peers", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    machine = {"cores": 2, "processor": "P", "system": "S"}
    for page, name, text in script.PAGES:
        copy = tmp_path / "page.md"
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
        table.into(copy, name, text(RESULTS | {"machine": machine, "date": "2026-01-01"}))
        assert "Fast" in copy.read_text(encoding="utf-8")


def test_every_other_server_has_an_environment_and_pages():
    sys.path.append(str(Path(__file__).parents[3] / "tools"))
    import environments

    for server in servers.SERVERS[1:]:
        assert server.environment in environments.REQUIREMENTS
        assert server.pages
    for server in servers.SERVERS:
        for stage in (*server.stages, server.overload):
            assert all(change.keys() <= server.defaults.keys() for change in stage)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_servers_too(signum):
    repository = Path(__file__).parents[3]
    # The first is ignored in what a shell runs in the background.
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    bench = subprocess.Popen(
        [*ignoring, sys.executable, "bench/peers", "--only", "batcher", "--quick"],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with bench:
        try:
            assert bench.stdout.readline() == "batcher ...\n"
            while not any("batcher" in command_of(pid) for pid in processes.descendants(bench.pid)):
                assert bench.poll() is None, bench.stderr.read()
            below = processes.descendants(bench.pid)
            bench.send_signal(signum)
            _, said = bench.communicate(timeout=60)
        finally:
            bench.terminate()  # it has ended, unless something is wrong
    assert bench.returncode == 130, said
    assert not any("batcher" in command_of(pid) for pid in below)
