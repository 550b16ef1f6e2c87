from __future__ import annotations

import base64
import hashlib
import re

from batcher.web.live import PAGE, SECURITY_HEADERS
from batcher.web.live.page import _FOLDER


def test_only_the_style_and_the_script_of_the_page_may_run():
    policy = dict(
        part.split(" ", 1) for part in SECURITY_HEADERS["content-security-policy"].split("; ")
    )
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


def test_it_loads_nothing_from_elsewhere():
    # The name of SVG's namespace is no address that is read.
    text = PAGE.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|//[a-z]", text.replace("://", "", 0))
    assert not re.findall(
        r"@import|<link rel=.stylesheet|<script src|innerHTML|insertAdjacent", text
    )


def test_its_links_work_behind_a_path_of_a_proxy():
    assert not re.findall(r'(?:href|src|fetch\()\s*=?\s*"/', PAGE)


def test_its_files_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in _FOLDER.iterdir()}
    assert max(lengths.values()) < 500, lengths
