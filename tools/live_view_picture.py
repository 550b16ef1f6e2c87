"""Makes the picture of docs/live-view.md: a server under load, seen in Chromium.

    python tools/live_view_picture.py docs/live-view.png --seconds 310

Needs Debian's chromium; Playwright comes in an environment of its own. One of the three models gets more
than its device serves for a while, and a setting is changed, so that there is something to see.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import environments
import grpc
import numpy as np

from batcher import protocol
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess

DRIVER = environments.ROOT / "tests" / "conformance" / "browser" / "driver.py"

CONFIG = {
    "models": [
        {
            "name": "embedder",
            "executor": "emulated",
            "options": {"base": "5ms", "per_row": "0.5ms"},
            "batching": {"target_p99": "100ms"},
        },
        {
            "name": "reranker",
            "executor": "emulated",
            "device": "second",
            "options": {"base": "20ms", "per_row": "5ms"},
            "batching": {"target_p99": "150ms", "max_batch_size": 16, "limit": "target"},
        },
        {
            "name": "tagger",
            "executor": "emulated",
            "device": "second",
            "options": {"base": "2ms"},
            "batching": {"target_p99": "250ms"},
        },
    ]
}


def send(address: str, model: str, rate: float, ends: float) -> None:
    """Independent requests at this rate, without waiting for answers."""
    with grpc.insecure_channel(address) as channel:
        infer = protocol.Stub(channel, protocol.INFERENCE).ModelInfer
        calls = deque(maxlen=5_000)  # one that is not kept is cancelled
        while time.monotonic() < ends:
            rows = random.choice((1, 1, 2, 4))
            tensors = {"X": np.zeros((rows, 16), np.float32)}
            calls.append(infer.future(infer_request(model, tensors), timeout=5))
            time.sleep(random.expovariate(rate))


def main() -> None:
    """Run, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=310)
    given = parser.parse_args()
    with ServerProcess(CONFIG) as server:
        ends = time.monotonic() + given.seconds
        flows = [("embedder", 60, ends), ("tagger", 8, ends), ("reranker", 30, ends)]
        threads = [threading.Thread(target=send, args=(server.grpc, *flow)) for flow in flows]
        late = ends - given.seconds / 5
        more = threading.Thread(
            target=lambda: (
                time.sleep(max(0, late - time.monotonic())),
                send(server.grpc, "reranker", 70, ends),
            )
        )
        for thread in (*threads, more):
            thread.start()
        time.sleep(given.seconds / 2)
        document = json.loads(server.path.read_text())
        document["models"][1]["batching"]["target_p99"] = "120ms"
        server.path.write_text(json.dumps(document))
        time.sleep(max(0, ends - time.monotonic() - 12))
        shoot(f"http://{server.http}/", given.path)
        for thread in (*threads, more):
            thread.join()


def shoot(url: str, path: Path) -> None:
    """Open the page, and save what it looks like."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed")
    command = [environments.interpreter("playwright"), DRIVER, chromium]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        driver.stdout.readline()

        def ask(**values: object) -> None:
            driver.stdin.write(json.dumps(values) + "\n")
            driver.stdin.flush()
            driver.stdout.readline()

        ask(do="open", url=url, width=1400, height=600, scheme="light")
        ask(do="until", page=0, code="Number(document.body.dataset.number) > 0", seconds=30)
        time.sleep(4)
        ask(do="shoot", page=0, path=str(path))
        driver.stdin.close()


if __name__ == "__main__":
    main()
