"""Who speaks HTTP/2 in the server that a benchmark starts."""

from __future__ import annotations

import argparse

TRANSPORTS = ("grpcio", "builtin")


def options() -> argparse.ArgumentParser:
    """The option of every benchmark that starts a server."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="builtin",
        help="the server's `transport`",
    )
    return parser
