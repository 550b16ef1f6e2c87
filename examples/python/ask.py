"""Asks the three models of examples/python.yaml, many requests at once, and prints what they answer.

    python examples/python/ask.py [--target 127.0.0.1:8001]

Needs grpcio and numpy; the message classes are those of batcher.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import grpc
import numpy as np

from batcher.protocol import INFERENCE, Stub, inference

PAYMENTS = [("CH", 120.0), ("US", 5000.0), ("XX", 1.0), ("DE", -3.0)]
TEXTS = ["A request waits", "the request shares the batch"]


def text(values: list[str]) -> bytes:
    """BYTES on the wire: each value after its length, four bytes, little-endian."""
    encoded = [value.encode() for value in values]
    return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)


def request(model: str, **inputs: tuple[str, int, bytes]) -> inference.ModelInferRequest:
    """A request of one-column inputs: name=(datatype, rows, contents)."""
    made = inference.ModelInferRequest(model_name=model)
    for name, (datatype, rows, contents) in inputs.items():
        made.inputs.add(name=name, datatype=datatype, shape=(rows,))
        made.raw_input_contents.append(contents)
    return made


async def ask(target: str) -> list[str]:
    """One line for each request."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = Stub(channel, INFERENCE)

        async def decide(country: str, amount: float) -> str:
            asked = request(
                "decide",
                country=("BYTES", 1, text([country])),
                amount=("FP64", 1, np.float64(amount).tobytes()),
            )
            try:
                answer = await stub.ModelInfer(asked)
            except grpc.aio.AioRpcError as error:
                return f"decide {country} {amount:g}: {error.code().name}, {error.details()}"
            action, reason = (raw[4:].decode() for raw in answer.raw_output_contents)
            return f"decide {country} {amount:g}: {action} {reason}".rstrip()

        async def tokens(value: str) -> str:
            answer = await stub.ModelInfer(request("tokens", text=("BYTES", 1, text([value]))))
            ids = np.frombuffer(answer.raw_output_contents[0], np.int64)
            return f"tokens {value}: {ids.tolist()}"

        async def look_up(user: int) -> str:
            contents = np.int64(user).tobytes()
            answer = await stub.ModelInfer(request("lookup", user=("INT64", 1, contents)))
            (score,) = np.frombuffer(answer.raw_output_contents[0])
            return f"lookup {user}: {score:g}"

        return await asyncio.gather(
            *(decide(*each) for each in PAYMENTS),
            *map(tokens, TEXTS),
            *map(look_up, (7, 142)),
        )


def main() -> None:
    """Ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="127.0.0.1:8001")
    for line in asyncio.run(ask(parser.parse_args().target)):
        print(line)


if __name__ == "__main__":
    main()
