"""Replays the demo's event log: what another setting would have made of its requests.

The server writes its event log while the demo runs. The last requests of the demo arrive at random
moments, whether or not answers come back, as those of many independent users do: a log of callers
that wait for each other's answers would only say how long they waited.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LOAD = 0.6
"""The rate of those requests, as a share of the throughput of the closed loop."""
SETTING = "batching.max_queue_delay=40ms"
"""The setting that is tried."""
PICTURE = Path(__file__).parent / "build" / "replay.png"
PATTERN = "*.batcherlog"
REPLAY_TIMEOUT_S = 120.0


class ReplayError(Exception):
    """The replay failed. The message is its output."""


class Log:
    """The event log that a server writes into `folder`, from `begin` on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: set[str] = set()

    def begin(self) -> None:
        """Note that `replay` covers the segments from the next one on."""
        self._before = {path.name for path in self._folder.glob(PATTERN)}

    def replay(self, model: str) -> str:
        """Replay it as it was and with `SETTING`; draws `PICTURE` and returns the output.

        The server has ended. Raises `ReplayError` when nothing was written or it does not replay.
        """
        files = [path for path in self._folder.glob(PATTERN) if path.name not in self._before]
        if not files:
            raise ReplayError("the server wrote no log while the last requests were sent")
        with tempfile.TemporaryDirectory() as folder:
            for path in files:
                shutil.copy(path, folder)
            command = [sys.executable, "-m", "batcher", "replay", folder, "--model", model]
            command += ["--set", SETTING, "--plot", str(PICTURE)]
            said = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=REPLAY_TIMEOUT_S
            )
        if said.returncode:
            raise ReplayError(f"batcher replay ended with {said.returncode}\n{said.stderr.strip()}")
        return said.stdout.strip()
