"""The executor `torch` and this server on an NVIDIA GPU, in eight minutes and with nothing downloaded.

    python bench/gpu/run.py                       # exit code 77 where there is no GPU
    python bench/gpu/run.py --device cpu --tiny   # whether the benchmark itself works

For a network of the size of ResNet-50 and an encoder of the size of BERT-base, with random weights:
what batches of 1 to 64 take, with CUDA graphs and without; the throughput of full batches in a loop,
from pinned memory and pipelined and not; and the throughput of the server in comparison, which is to
be 0.9 of the loop's. Steps for which no time is left are left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "load")]

import bars  # noqa: E402 - found by the path above
from machine import facts  # noqa: E402 - as above

SKIPPED: Final = 77
"""The exit code where there is no GPU: what test runners take for skipped."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda:0", help="cuda:0 and so on, or cpu")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models, for a fraction of a second"
    )
    parser.add_argument("--budget", type=float, default=420, help="seconds for everything (420)")
    parser.add_argument("--seconds", type=float, help="seconds of a throughput (6, tiny 0.5)")
    parser.add_argument("--models", default="resnet,encoder", help="which, with a comma between")
    parser.add_argument("--load-processes", type=int, help="processes that send requests")
    default = HERE.parent / "results" / "gpu.json"
    parser.add_argument(
        "--output", type=Path, default=default, help=f"({os.path.relpath(default)})"
    )
    found = parser.parse_args(given)
    unknown = set(found.models.split(",")) - {"resnet", "encoder"}
    if unknown:
        parser.error(f"--models: got {', '.join(sorted(unknown))}; allowed: resnet, encoder")
    if found.budget <= 0 or (found.seconds is not None and found.seconds <= 0):
        parser.error("--budget and --seconds: more than 0")
    found.seconds = found.seconds or (0.5 if found.tiny else 6.0)
    found.load_processes = found.load_processes or max(1, min(6, (os.cpu_count() or 2) // 2 - 1))
    return found


def why_not(device: str) -> str:
    """Why nothing can be measured on that device; empty if it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch  # noqa: PLC0415 - it may not be there

    if device == "cpu":
        return ""
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU, or this build of PyTorch does not use it"
    return ""


def main(given: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = arguments(given)
    problem = why_not(options.device)
    if problem:
        print(f"skipped: {problem}")
        return SKIPPED
    from steps import Bench, device_facts, table  # noqa: PLC0415 - they need PyTorch

    bench = Bench(options)
    bench.result |= device_facts(options.device) | {"machine": facts()}
    try:
        bench.run()
    finally:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(bench.result, indent=1) + "\n", encoding="utf-8")
    print(table(bench.result))
    bars.show(bench.result.get("checks", {}))
    print(f"\nwritten to {options.output}")
    failed = [step for step in bench.result["left_out"] if "onnxruntime" not in step]
    return bars.exit_code(bench.result) or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
