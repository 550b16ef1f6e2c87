"""Chromium, and servers for it to look at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import environments
import pytest

from batcher.web.live import PAGE, SECURITY_HEADERS

sys.path.insert(0, str(Path(__file__).parent))

PATIENCE_S = 60


class Page:
    """One open page."""

    def __init__(self, ask, number):
        self._ask = ask
        self._number = number

    def eval(self, code):
        return self._ask(do="eval", page=self._number, code=code)

    def until(self, code, seconds=PATIENCE_S):
        """The first value of an expression that is true. Fails where it never is."""
        value = self._ask(do="until", page=self._number, code=code, seconds=seconds)
        assert value, f"never true: {code}\n{self.text()}"
        return value

    def text(self):
        return self.eval("document.body.innerText")

    def resize(self, width, height=900):
        self._ask(do="resize", page=self._number, width=width, height=height)

    def shoot(self, path):
        self._ask(do="shoot", page=self._number, path=str(path))

    def close(self):
        """What it has said on its console, and what it asked for elsewhere."""
        return self._ask(do="close", page=self._number)


@pytest.fixture(scope="session")
def chromium():
    """Asks the driver; skips where there is no Chromium, or nothing can be installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (.ci/packages.txt)")
    try:
        python = environments.interpreter("playwright")
    except environments.CannotMakeError as error:
        if error.conflict:
            pytest.fail(str(error))
        pytest.skip(str(error))
    driver = subprocess.Popen(
        [python, Path(__file__).with_name("driver.py"), program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert "ready" in driver.stdout.readline()

        def ask(**command):
            driver.stdin.write(json.dumps(command) + "\n")
            driver.stdin.flush()
            answer = json.loads(driver.stdout.readline())
            assert "error" not in answer, answer["error"]
            return answer["value"]

        yield ask
        driver.stdin.close()
        assert driver.wait(PATIENCE_S) == 0


@pytest.fixture
def browse(chromium):
    """Opens pages, and closes them after the test, which fails if one has said anything."""
    opened = []

    def open_one(url, *, width=1440, height=900, scheme="light", may_say=()):
        number = chromium(do="open", url=url, width=width, height=height, scheme=scheme)
        page = Page(chromium, number)
        opened.append((page, may_say))
        return page

    yield open_one
    said = [(page.close(), may_say) for page, may_say in opened]
    for lines, may_say in said:
        assert [line for line in lines if not any(text in line for text in may_say)] == []


def event(values, *, number=1):
    body = json.dumps(values)
    return f"event: first\nid: {number}\ndata: {body}\n\n".encode()


@contextmanager
def made_up(values):
    """A server with the page, and one event with these values; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.path == "/":
                for name, value in SECURITY_HEADERS.items():
                    self.send_header(name, value)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(PAGE.encode())
                return
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(event(values))
            self.wfile.flush()
            over.wait(PATIENCE_S)

        def log_message(self, *_):
            pass

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def show(browse):
    """Opens the page of a made-up server, and waits until its values are on the screen."""
    with ExitStack() as servers:

        def open_one(values, **options):
            page = browse(servers.enter_context(made_up(values)), **options)
            page.until("document.body.dataset.number === '1'")
            return page

        yield open_one
