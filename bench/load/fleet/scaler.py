"""`batcher scaler` as it is in a cluster: it finds the replicas by their name, and is asked as KEDA asks it.

It reads `/etc/resolv.conf`, as every program does. So it runs in a mount namespace of its own, in which that file
names our name server; that takes the rights of root.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from grpc import aio

from batcher.protocol import KEDA, Stub, keda
from batcher.testing.server import ServerFailedError, free_address
from fleet.scene import AVERAGE, TARGET_RATIO

NAMED = 'mount --bind resolv.conf /etc/resolv.conf && exec "$@"'
READY_S = 60.0
FLEET, METRIC = "ranker", "desired_ratio"


def why_not() -> str:
    """Why a scaler cannot be given a name server of its own here; empty if it can."""
    command = ["unshare", "--mount", "sh", "-c", "mount --bind /etc/hosts /etc/resolv.conf"]
    try:
        tried = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=READY_S
        )
    except OSError as error:
        return f"unshare: {error}"
    return tried.stderr.strip() if tried.returncode else ""


class Scaler:
    """A scaler of one fleet, and a client of it. An asynchronous context manager."""

    def __init__(self, folder: Path, name: str, port: int, name_server: str) -> None:
        """The fleet are the addresses of that name, asked of the server at that address, port 53."""
        self._folder = folder
        self._name_server = name_server
        self._listen = free_address()
        self.http = free_address()
        """Where `/v1/fleets` is."""
        self._config = {
            "listen": {"grpc": [self._listen], "http": self.http},
            "fleets": [{"name": FLEET, "replicas": {"dns": f"{name}.:{port}"}, "average": AVERAGE}],
        }
        self._stack = ExitStack()
        self._ref = keda.ScaledObjectRef(
            name="ranker",
            namespace="ml",
            scalerMetadata={"fleet": FLEET, "metric": METRIC, "target": f"{TARGET_RATIO:g}"},
        )
        self.errors: list[str] = []
        self.slowest_s = 0.0
        """Of its answers."""

    def _begin(self) -> None:
        (self._folder / "resolv.conf").write_text(f"nameserver {self._name_server}\n")
        file = self._folder / "scaler.yaml"
        file.write_text(json.dumps(self._config, indent=2))
        program = [sys.executable, "-m", "batcher", "scaler", str(file)]
        log = self._stack.enter_context((self._folder / "scaler.log").open("wb"))
        command = ["unshare", "--mount", "sh", "-c", NAMED, "sh", *program]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    async def __aenter__(self) -> Self:
        self._begin()
        self._channel = aio.insecure_channel(self._listen)
        self._stub = Stub(self._channel, KEDA)
        try:
            await self._stub.GetMetricSpec(self._ref, timeout=READY_S, wait_for_ready=True)
            await self._known()
        except BaseException:
            await self.__aexit__()
            raise
        self.errors.clear()
        self.slowest_s = 0.0
        return self

    async def _known(self) -> None:
        """Wait until it has looked and asked for the first time."""
        end_s = time.monotonic() + READY_S
        while await self.load() is None:
            if time.monotonic() > end_s:
                raise ServerFailedError(f"the scaler knows no load\n{self.log()}")
            await asyncio.sleep(0.2)

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)
        self._stack.close()

    def log(self) -> str:
        """What it has written."""
        return (self._folder / "scaler.log").read_text(errors="replace")

    async def load(self) -> float | None:
        """The load of the fleet in replicas; None where it is not known, as for the autoscaler."""
        asked_s = time.monotonic()
        request = keda.GetMetricsRequest(scaledObjectRef=self._ref, metricName=METRIC)
        try:
            answer: Any = await self._stub.GetMetrics(request, timeout=READY_S)
        except aio.AioRpcError as error:
            self.errors.append(f"{error.code().name}: {error.details()}")
            return None
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - asked_s)
        (value,) = answer.metricValues
        return float(value.metricValueFloat)
