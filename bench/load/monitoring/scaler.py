"""`batcher scaler` beside the replicas of a scene, and a caller that asks it as KEDA does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from batcher.protocol import KEDA, Stub, keda
from batcher.testing.server import ServerFailedError, free_address

FLEET = "ranker"
START_S = 60.0
EVERY_S = 0.25
"""What KEDA's 15 s are, and some more often: the factor is that of the rules."""


class Scaler:
    """A scaler of one fleet, as a context manager that returns when it is ready."""

    def __init__(self, folder: Path, replicas: list[str]) -> None:
        """The fleet are the gRPC addresses; what the scaler writes goes into that folder."""
        self.http = free_address()
        self._grpc = free_address()
        self._log = folder / "scaler.log"
        self._file = folder / "scaler.yaml"
        fleet = {
            "name": FLEET,
            "replicas": {"static": replicas},
            "poll": {"interval": "500ms", "timeout": "400ms"},
            # With 30 s a replica would be known for longer than the scene lasts.
            "keep_last": "1s",
            # The scenes are as short.
            "average": "0s",
        }
        listen = {"grpc": [self._grpc], "http": self.http}
        self._file.write_text(json.dumps({"listen": listen, "fleets": [fleet]}))
        self._over = threading.Event()
        self._asking = threading.Thread(target=self._ask, name=f"keda {self._grpc}")

    def __enter__(self) -> Self:
        self.start()
        self._asking.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._asking.join()
        self.kill()

    def start(self) -> None:
        """Start its process on the same addresses; returns when it is ready."""
        command = [sys.executable, "-m", "batcher", "scaler", str(self._file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise ServerFailedError(self._log.read_text(errors="replace"))
            time.sleep(0.1)

    def kill(self) -> None:
        """End its process at once."""
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self) -> None:
        ref = keda.ScaledObjectRef(
            name=FLEET,
            namespace="ml",
            scalerMetadata={"fleet": FLEET, "metric": "desired_ratio", "target": "0.8"},
        )
        request = keda.GetMetricsRequest(scaledObjectRef=ref, metricName="desired_ratio")
        with grpc.insecure_channel(self._grpc) as channel:
            stub = Stub(channel, KEDA)
            while not self._over.wait(EVERY_S):
                try:
                    stub.GetMetrics(request, timeout=5)
                except grpc.RpcError:
                    continue
