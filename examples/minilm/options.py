"""The command line of the demo."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import document


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, read."""

    file: Path
    queries: list[str]
    concurrency: int
    seconds: float
    lines: int


def read_options() -> Options:
    """Read it from `sys.argv`; says what is wrong and exits with 2 when it cannot."""
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description="Embed the lines of a text file with all-MiniLM-L6-v2 behind the batcher"
        " sidecar, and compare batching with none on this machine.",
        epilog="examples:\n"
        "  make demo\n"
        "  make demo FILE=notes.txt\n"
        "  python examples/minilm/demo.py notes.txt --query 'who pays for this?' --concurrency 16\n"
        "\nFew in flight make small batches; more than the largest batch (32) only wait longer."
        "\nThe server alone, left running: batcher serve examples/minilm.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=document.DEFAULT,
        help="UTF-8 text, one sentence a line (default: docs/demo.txt)",
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        metavar="TEXT",
        help="look for the lines nearest to this; may be given again"
        " (default: five that fit docs/demo.txt, or some lines of your file)",
    )
    parser.add_argument(
        "--concurrency",
        type=_between(1, 1000),
        default=64,
        metavar="N",
        help="requests in flight, one sentence each (default: 64)",
    )
    parser.add_argument(
        "--seconds",
        type=_between(1, 600),
        default=8,
        metavar="S",
        help="how long to measure with batching, and again without (default: 8)",
    )
    parser.add_argument(
        "--lines",
        type=_between(1, 1_000_000),
        default=2000,
        metavar="N",
        help="embed at most the first N distinct lines (default: 2000)",
    )
    given = parser.parse_args()
    return Options(given.file, given.query, given.concurrency, given.seconds, given.lines)


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: a whole number from {least} to {most}")
        return int(text)

    return number
