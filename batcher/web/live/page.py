"""The page at `/`: HTML, CSS and a script in one document that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).with_name("page")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE: Final = _text("page.css")
_SCRIPT: Final = "\n".join(_text(name) for name in ("format.js", "plots.js", "page.js"))

PAGE: Final = _text("page.html").replace("/* style */", _STYLE).replace("/* script */", _SCRIPT)

SECURITY_HEADERS: Final = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src {_digest(_STYLE)}",
            f"script-src {_digest(_SCRIPT)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Nothing but this style and this script runs, whatever a model is called."""
