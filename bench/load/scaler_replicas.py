"""Replicas for `scaler.py`: prints their addresses, then does what it reads, a line at a time.

    python scaler_replicas.py COUNT FOLDER

`hang N`, `lie N` and `well`: the first N hang, the N after those report nonsense, all are well again.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from batcher.testing.replica import FakeReplica


async def serve(count: int, folder: str) -> None:
    replicas = [
        await FakeReplica(f"unix:{folder}/{number}.sock", ratio=0.5).start()
        for number in range(count)
    ]
    print(json.dumps([replica.address for replica in replicas]), flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        match line:
            case ["hang", number]:
                for replica in replicas[: int(number)]:
                    replica.hangs = True
            case ["lie", number]:
                for replica in replicas[-int(number) :]:
                    replica.ratio = float("nan")
            case _:
                for replica in replicas:
                    replica.hangs, replica.ratio = False, 0.5
        print("done", flush=True)
    for replica in replicas:
        replica.hangs = False
        await replica.stop()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
