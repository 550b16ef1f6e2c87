"""Drives Chromium for the tests, in an environment of its own: a command a line, an answer a line, in JSON.

{"do": "open", "url": ..., "width": 1440, "height": 900, "scheme": "light"} -> the number of the page
{"do": "eval", "page": 0, "code": "1 + 1"}                                  -> its value
{"do": "until", "page": 0, "code": ..., "seconds": 60}                      -> its first value that is true
{"do": "resize", "page": 0, "width": 390, "height": 844}
{"do": "shoot", "page": 0, "path": ...}
{"do": "close", "page": 0}             -> what the page said on its console, and asked for elsewhere
"""

import contextlib
import json
import sys
import tempfile
import time
from urllib.parse import urlsplit

from playwright.sync_api import Error, sync_playwright

FLAGS = [
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


class Pages:
    """The open pages, each in a context of its own."""

    def __init__(self, browser):
        self.browser = browser
        self.pages = []
        self.said = []

    def open(self, url, width, height, scheme):
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        page, said = context.new_page(), []
        home = urlsplit(url).netloc

        def asked(request):
            where = urlsplit(request.url)
            if where.scheme in {"http", "https", "ws", "wss"} and where.netloc != home:
                said.append(f"asked for {request.url}")

        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", asked)
        page.goto(url)
        self.pages.append(page)
        self.said.append(said)
        return len(self.pages) - 1

    def eval(self, page, code):
        return self.pages[page].evaluate(code)

    def until(self, page, code, seconds):
        end = time.monotonic() + seconds
        while True:
            value = self.pages[page].evaluate(code)
            if value or time.monotonic() > end:
                return value
            self.pages[page].wait_for_timeout(50)

    def resize(self, page, width, height):
        self.pages[page].set_viewport_size({"width": width, "height": height})

    def shoot(self, page, path):
        self.pages[page].screenshot(path=path, full_page=True)

    def close(self, page):
        self.pages[page].context.close()
        return self.said[page]


def say(values):
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main(chromium):
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=FLAGS, env={"HOME": folder}, timeout=120_000
        )
        pages = Pages(browser)
        say({"ready": browser.version})
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = {"value": getattr(pages, command.pop("do"))(**command)}
            except Error as error:
                answer = {"error": str(error)}
            say(answer)
        with contextlib.suppress(Error):
            browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
