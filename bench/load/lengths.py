"""Real text of mixed length on a real model: what padding costs, and what buckets save.

The lines and paragraphs of this repository's documentation are embedded with all-MiniLM-L6-v2, one
a request, by callers in a closed loop. Four models share one server and one core, and are asked in
turns: batches in order of arrival, padded to their longest row; one bucket; evenly spaced buckets;
and as many proposed ones (what `batcher buckets` prints for these lengths). Throughput is higher at
the same p99 wherever more is answered a second and p99 is lower, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bars
import machine
import numpy as np
from closed import connections
from payload import UNARY

from batcher.protocol import inference
from batcher.simulation.traffic.buckets import evenly_spaced, propose
from batcher.testing.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
FIRST_COME = Path(__file__).resolve().parent / "first_come"
FILES = ("README.md", "docs/*.md", "docs/demo.txt")
LONGEST = 128


@dataclass(slots=True)
class Turn:
    """What one model did in one turn."""

    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    own: float = 0.0
    """Tokens of the requests that were executed."""
    computed: float = 0.0
    """Tokens of the batches that they were in."""


@dataclass(slots=True)
class Variant:
    """One model of the server, its requests, and its turns so far."""

    name: str
    model: str
    requests: Iterator[tuple[bytes, int]]
    """Each with its own tokens."""
    buckets: tuple[int, ...] = ()
    turns: list[Turn] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--count", type=int, default=8, help="buckets")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each model")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a turn")
    parser.add_argument("--in-flight", type=int, default=64, help="requests open at once")
    parser.add_argument("--max-batch-size", type=int, default=32, help="texts in the largest batch")
    parser.add_argument(
        "--policy", choices=("adaptive", "fixed"), default="fixed", help="batching policy"
    )
    parser.add_argument("--target", default="2s", help="its target, where it is adaptive")
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "lengths.json", help="where the figures go"
    )


def texts() -> list[str]:
    """Paragraphs and lines of the documentation, mixed by a fixed seed."""
    found: list[str] = []
    for pattern in FILES:
        for path in sorted(ROOT.glob(pattern)):
            blocks = path.read_text(encoding="utf-8").split("\n\n")
            if path.suffix == ".txt":
                blocks = path.read_text(encoding="utf-8").splitlines()
            found += [" ".join(block.split()) for block in blocks if block.strip()]
    random.Random(0).shuffle(found)
    return found


def token_ids(sentences: list[str]) -> list[list[int]]:
    """The example's own tokens, cut at `LONGEST`."""
    sys.path.insert(0, str(ROOT / "examples" / "minilm"))
    import tokens  # noqa: PLC0415 - from the folder above

    return tokens.token_ids(sentences)


def model_path() -> Path:
    """The example's model, built if need be."""
    import model  # noqa: PLC0415 - beside `tokens`

    return model.ensure()


def as_is(model: str, ids: list[int]) -> bytes:
    """The request that a client sends that does not pad."""
    request = inference.ModelInferRequest(model_name=model)
    array = np.array([ids], "<i8")
    for name, each in (("input_ids", array), ("attention_mask", np.ones_like(array))):
        request.inputs.add(name=name, datatype="INT64", shape=each.shape)
        request.raw_input_contents.append(each.tobytes())
    return request.SerializeToString()


def as_text(model: str, ids: list[int]) -> bytes:
    """The request for the executor that pads a batch to its longest row."""
    request = inference.ModelInferRequest(model_name=model)
    text = np.array(ids, "<i8").tobytes()
    request.inputs.add(name="tokens", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    return request.SerializeToString()


def variants(all_ids: list[list[int]], count: int) -> list[Variant]:
    """What is compared."""
    lengths = Counter(map(len, all_ids))
    proposed = propose(lengths, count, longest=LONGEST)
    even = evenly_spaced(lengths, len(proposed[-1].lengths), longest=LONGEST)

    def requests(model: str, make: Any) -> Iterator[tuple[bytes, int]]:
        return itertools.cycle([(make(model, ids), len(ids)) for ids in all_ids])

    made = [Variant("first come", "first-come", requests("first-come", as_text))]
    for name, buckets in (
        ("one bucket", (LONGEST,)),
        ("evenly spaced", even.lengths),
        ("proposed", proposed[-1].lengths),
    ):
        model = name.replace(" ", "-")
        made.append(Variant(name, model, requests(model, as_is), buckets))
    return made


def config(made: list[Variant], path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One model a variant, all on one device and alike but for the padding."""
    models = []
    for variant in made:
        model: dict[str, Any] = {
            "name": variant.model,
            "executor": "onnxruntime" if variant.buckets else "first_come",
            "options": {"path": str(path), "threads": {"intra_op": 1}},
            "batching": {"policy": options.policy, "max_batch_size": options.max_batch_size},
            "warmup": {"batch_sizes": [1, options.max_batch_size // 2, options.max_batch_size]},
        }
        if options.policy == "adaptive":
            model["batching"]["target_p99"] = options.target
        if variant.buckets:
            model["padding"] = [
                {"input": name, "axis": 1, "buckets": variant.buckets}
                for name in ("input_ids", "attention_mask")
            ]
        else:
            # The model's own batch axis has another name than that of `tokens`.
            model["outputs"] = [{"output": "embedding", "batched": True}]
        models.append(model)
    return {"server": {"transport": options.transport}, "models": models}


def executed(http: str, model: str) -> tuple[float, float]:
    """Tokens so far by the server's metrics: the requests' own, and with padding."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r"^batcher_batch_elements_total\{(.*)\} (\S+)$", text, re.MULTILINE)
    mine = [(labels, float(value)) for labels, value in found if f'model="{model}"' in labels]
    own = sum(value for labels, value in mine if 'kind="request"' in labels)
    # Ids and mask: two elements a token.
    return own / 2, sum(value for _, value in mine) / 2


async def take_turn(
    channel: Any, server: ServerProcess, variant: Variant, options: argparse.Namespace
) -> None:
    """A closed loop on one model for a while."""
    call = channel.unary_unary(UNARY, response_deserializer=inference.ModelInferResponse.FromString)
    turn = Turn()
    before = executed(server.http or "", variant.model)
    cpu, start = machine.cpu_seconds(server.process.pid), time.monotonic()

    async def caller() -> None:
        sent = time.monotonic()
        while sent < start + options.seconds:
            request, own = next(variant.requests)
            reply = await call(request)
            answered = time.monotonic()
            turn.latencies_ms.append((answered - sent) * 1e3)
            sent = answered
            if not variant.buckets:
                place = [output.name for output in reply.outputs].index("padded")
                turn.own += own
                turn.computed += int.from_bytes(reply.raw_output_contents[place], "little")

    await asyncio.gather(*(caller() for _ in range(options.in_flight)))
    turn.seconds = time.monotonic() - start
    turn.cpu_seconds = machine.cpu_seconds(server.process.pid) - cpu
    if variant.buckets:
        after = executed(server.http or "", variant.model)
        turn.own, turn.computed = after[0] - before[0], after[1] - before[1]
    variant.turns.append(turn)


def summary(variant: Variant) -> dict[str, Any]:
    """The medians of the turns, and the padding of all of them."""
    turns = variant.turns

    def median(values: Iterator[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "name": variant.name,
        "buckets": list(variant.buckets),
        "per_second": median(len(t.latencies_ms) / t.seconds for t in turns),
        "p50_ms": median(float(np.percentile(t.latencies_ms, 50)) for t in turns),
        "p99_ms": median(float(np.percentile(t.latencies_ms, 99)) for t in turns),
        "cpu_ms_each": median(1e3 * t.cpu_seconds / len(t.latencies_ms) for t in turns),
        "waste": round(1 - sum(t.own for t in turns) / sum(t.computed for t in turns), 4),
    }


def judged(results: list[dict[str, Any]]) -> dict[str, bool]:
    """The bars, of which the last is about buckets alone: what is computed, and what it takes."""
    by_name = {each["name"]: each for each in results}
    first, even, proposed = (by_name[n] for n in ("first come", "evenly spaced", "proposed"))
    return {
        "proposed buckets pad at most half of what first come does": (
            proposed["waste"] <= first["waste"] / 2
        ),
        "they answer more than first come, at a p99 that is no worse": (
            proposed["per_second"] > first["per_second"] and proposed["p99_ms"] <= first["p99_ms"]
        ),
        "they pad less than evenly spaced ones, and take less processor time": (
            proposed["waste"] < even["waste"] and proposed["cpu_ms_each"] < even["cpu_ms_each"]
        ),
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All variants in turns, in an order that changes with each round; returns what is kept."""
    all_ids = token_ids(texts())
    made = variants(all_ids, options.count)
    with ExitStack() as stack:
        server_core, load_core = machine.cores()
        machine.stay_on(load_core)
        with machine.children_on(server_core):
            server = stack.enter_context(
                ServerProcess(
                    config(made, model_path(), options), environ={"PYTHONPATH": str(FIRST_COME)}
                )
            )
        async with connections(server.grpc, 1) as (channel,):
            for number in range(options.rounds):
                order = made[number % len(made) :] + made[: number % len(made)]
                for variant in order:
                    await take_turn(channel, server, variant, options)
    results = [summary(variant) for variant in made]
    report(all_ids, results)
    checks = judged(results)
    bars.show(checks)
    settings = {k: v for k, v in vars(options).items() if k not in ("run", "output", "command")}
    found = {"settings": settings, "checks": checks, "variants": results}
    machine.save(options.output, found)
    return found


def report(all_ids: list[list[int]], results: list[dict[str, Any]]) -> None:
    """Print it for a person."""
    lengths = [len(ids) for ids in all_ids]
    print(
        f"{len(lengths)} texts of {min(lengths)} to {max(lengths)} tokens,"
        f" {statistics.mean(lengths):.1f} on average"
    )
    print(f"{'':14}{'texts/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'cpu ms each':>13}{'padding':>9}")
    for each in results:
        print(
            f"{each['name']:14}{each['per_second']:9.1f}{each['p50_ms']:9.1f}{each['p99_ms']:9.1f}"
            f"{each['cpu_ms_each']:13.2f}{each['waste']:9.1%}"
        )
    for each in results[2:]:
        print(f"{each['name']}: {', '.join(map(str, each['buckets']))}")
