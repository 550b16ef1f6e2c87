"""After an overload, and after a device was slow: how soon the stream is on time again."""

from __future__ import annotations

import argparse
from typing import Any

import figures
import world
from compare import AGAIN_IN_TIME

from batcher.clock import SECOND


def recovery(options: argparse.Namespace) -> dict[str, Any]:
    """Five seconds of three times the requests, or of a device that is three times as slow."""
    found = figures.recovery(options)
    for label, row in found.items():
        limits_s = 2 * figures.limit_ns(world.PROFILES[label.split()[0]]) / SECOND
        row["ok"] = row["again_s"] <= limits_s and row["in_time"] >= AGAIN_IN_TIME
    return found
