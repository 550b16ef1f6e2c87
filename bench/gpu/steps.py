"""The steps of the benchmark: each measures one thing for one model, in processes of its own."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from models import Kind, kinds
from throughput import server_throughput

HERE: Final = Path(__file__).resolve().parent
BAR: Final = 0.9
"""The server's throughput, as a share of that of the same executor fed full batches in a loop."""
SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
TINY_SIZES: Final = (1, 2, 4)


class NoTimeError(Exception):
    """A step does not fit into what is left of the budget."""


class StepFailedError(Exception):
    """A step failed, and why."""


class Bench:
    """The steps for all models, within the budget."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._end = time.monotonic() + options.budget
        self._sizes = TINY_SIZES if options.tiny else SIZES
        self._dtype = "fp32" if options.device == "cpu" else "bf16"
        wanted = options.models.split(",")
        self._kinds = [kind for kind in kinds(tiny=options.tiny) if kind.name in wanted]
        self.result: dict[str, Any] = {
            "device": options.device,
            "tiny": options.tiny,
            "precision": self._dtype,
            "seconds": options.seconds,
            "models": {kind.name: {} for kind in self._kinds},
            "left_out": {},
        }

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured."""
        return bool(self._options.device != "cpu")

    def run(self) -> None:
        """Do every step, the most telling first. A step that fails is said, and the others go on."""
        for kind in self._kinds:
            self._step(kind, "profile", self._profile, 15)
            self._step(kind, "loop", self._loop, 25)
            self._step(kind, "server", self._server, 40)
        for kind in self._kinds:
            if self.on_gpu:
                self._step(kind, "profile, graphs", partial(self._profile, cuda_graphs=True), 20)
                self._step(kind, "server, graphs", partial(self._server, cuda_graphs=True), 45)
                self._step(
                    kind, "server, not pipelined", partial(self._server, pipelining=False), 40
                )
            self._step(kind, "profile, onnxruntime", self._onnxruntime, 40)
        self._judge()

    def _step(self, kind: Kind, name: str, measure: Callable[[Any], Any], least_s: float) -> None:
        began = time.monotonic()
        try:
            self._need(0 if self._options.tiny else least_s)
            found = measure(kind)
        except (NoTimeError, StepFailedError) as error:
            self.result["left_out"][f"{kind.name}: {name}"] = str(error)
            print(f"{kind.name}: {name}: left out: {error}", flush=True)
            return
        self.result["models"][kind.name][name] = found
        print(f"{kind.name}: {name}: {time.monotonic() - began:.1f} s", flush=True)

    def _need(self, least_s: float) -> None:
        if self._left() < least_s:
            raise NoTimeError(f"{least_s:g} s are needed, and {self._left():.0f} s are left")

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _profile(self, kind: Kind, **more: Any) -> Any:
        seconds = self._options.seconds / 6
        options = self._torch_options(kind, more)
        return self._child("profile", kind, "torch", options, seconds, fixed=bool(more))

    def _loop(self, kind: Kind, **more: Any) -> Any:
        options = self._torch_options(kind, more)
        seconds = self._options.seconds / 2
        return self._child("loop", kind, "torch", options, seconds, fixed=bool(more))

    def _torch_options(self, kind: Kind, more: dict[str, Any]) -> dict[str, Any]:
        # Threads that wait for each other spin, which takes cores from the load and the server.
        threads = {} if self.on_gpu else {"threads": {"intra_op": 1}}
        return kind.options(str(HERE / "models.py"), self._dtype) | threads | more

    def _onnxruntime(self, kind: Kind) -> Any:
        providers = ["cuda"] if self.on_gpu else ["cpu"]
        problem = no_onnxruntime(providers[0])
        if problem:
            raise StepFailedError(problem)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{kind.name}.onnx"
            self._python([str(HERE / "to_onnx.py"), kind.name, str(path), *self._flags()])
            options = {"path": str(path), "providers": providers}
            return self._child("profile", kind, "onnxruntime", options, self._options.seconds / 6)

    def _flags(self) -> list[str]:
        return ["--tiny"] if self._options.tiny else []

    def _child(
        self,
        what: str,
        kind: Kind,
        executor: str,
        options: dict[str, Any],
        seconds: float,
        *,
        fixed: bool = False,
    ) -> Any:
        task = {
            "what": what,
            "executor": executor,
            "device": self._options.device,
            "options": options,
            "sizes": self._sizes,
            "fixed_sizes": fixed,
            "inputs": kind.inputs,
            "below": kind.below,
            "seconds": seconds,
        }
        return json.loads(self._python([str(HERE / "measure.py"), json.dumps(task)]))

    def _python(self, command: list[str]) -> str:
        """The last line that a Python process prints, within what is left of the budget."""
        try:
            done = subprocess.run(
                [sys.executable, *command],
                capture_output=True,
                text=True,
                timeout=max(1.0, self._left()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NoTimeError("it took longer than what was left of the budget") from None
        if done.returncode:
            raise StepFailedError((done.stderr.strip() or "no output").splitlines()[-1])
        return (done.stdout.strip().splitlines() or [""])[-1]

    def _server(self, kind: Kind, *, pipelining: bool = True, **more: Any) -> Any:
        options = self._torch_options(kind, more)
        batching: dict[str, Any] = {"max_batch_size": self._sizes[-1]}
        if more:
            batching["batch_sizes"] = list(self._sizes)
        model = {
            "name": kind.name,
            "executor": "torch",
            "device": self._options.device,
            "options": options,
            "batching": batching,
            "queue": {"max_requests": 4096},
            "warmup": {"batch_sizes": list(self._sizes)},
        } | ({} if pipelining else {"pipelining": False})
        try:
            return server_throughput(
                model,
                kind,
                seconds=self._options.seconds,
                processes=self._options.load_processes,
                most_s=max(1.0, self._left()),
            )
        except RuntimeError as error:
            raise StepFailedError(str(error).strip().splitlines()[-1]) from None

    def _judge(self) -> None:
        """The bar of each model. On a CPU nothing is judged: the load competes for its cores."""
        if not self.on_gpu:
            return
        self.result["checks"] = {}
        for name, found in self.result["models"].items():
            bar = f"{name}: the server reaches {BAR} of the loop"
            try:
                ideal = found["loop"]["rows_per_s"]["pipelined"]
                share = found["server"]["rows_per_s"] / ideal
            except KeyError:
                self.result["checks"][bar] = "not judged: a step was left out"
                continue
            found["share"] = share
            self.result["checks"][bar] = share >= BAR


def no_onnxruntime(provider: str) -> str:
    """Why ONNX Runtime cannot be measured; empty if it can. `onnx` is needed to export a model."""
    missing = [name for name in ("onnxruntime", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    import onnxruntime  # noqa: PLC0415 - it may not be there

    wanted = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[provider]
    if wanted not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA: onnxruntime-gpu has it"
    return ""


def device_facts(device: str) -> dict[str, Any]:
    """What is measured on."""
    found: dict[str, Any] = {"torch": torch.__version__}
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(torch.device(device))
        found["cuda"] = torch.version.cuda
    return found


def table(result: dict[str, Any]) -> str:
    """What was measured, for people."""
    lines = []
    for name, found in result["models"].items():
        lines.append(f"\n{name}, {result['precision']}, {result.get('gpu', result['device'])}")
        profiles = {step: f["sizes"] for step, f in found.items() if step.startswith("profile")}
        for step, sizes in profiles.items():
            lines.append(f"  {step}, ms for a batch (p50, p95)")
            lines += [
                f"    {rows:>3} rows {each['p50_ms']:9.2f} {each['p95_ms']:9.2f}"
                for rows, each in sizes.items()
            ]
        if "loop" in found:
            lines.append(f"  batches of {found['loop']['rows']} in a loop, rows/s")
            rates = found["loop"]["rows_per_s"].items()
            lines += [f"    {way:<12} {rate:12.1f}" for way, rate in rates]
        servers = {step: f for step, f in found.items() if step.startswith("server")}
        lines += [
            f"  {step:<22} {each['rows_per_s']:12.1f} rows/s, load on {each['load_cores']:.1f} cores"
            for step, each in servers.items()
        ]
        if "share" in found:
            lines.append(f"  server / loop {found['share']:.3f}")
    return "\n".join(lines)
