"""Feeds several recordings to the detector at once, frame by frame, and prints what it hears.

    python examples/sequences/listen.py [--target 127.0.0.1:8001] [--recordings 8] [--frames 20]

Each recording is a sequence: its first frame has `sequence_start`, its last one `sequence_end`, and all have
its `sequence_id`. Each has a stream of its own here, and the server batches frames of different recordings.

Needs grpcio and numpy; the message classes are those of batcher.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets

import grpc
import numpy as np
from numpy.typing import NDArray

from batcher.protocol import INFERENCE, Stub, inference

Frames = NDArray[np.float32]


def recording(seed: int, frames: int) -> Frames:
    """Made-up frames `[frames, 8]`: noise, and a louder part in the middle."""
    random = np.random.default_rng(seed)
    loudness = np.where(abs(np.arange(frames) - frames / 2) < frames / 4, 2.0, 0.3)
    found: Frames = (random.normal(size=(frames, 8)) * loudness[:, None]).astype(np.float32)
    return found


def step(sequence: str, frame: Frames, *, start: bool, end: bool) -> inference.ModelInferRequest:
    """The request for one frame of a recording; `id` says in the answer which one it is."""
    request = inference.ModelInferRequest(model_name="detector", id=sequence)
    request.inputs.add(name="frame", datatype="FP32", shape=(1, len(frame)))
    request.raw_input_contents.append(frame.tobytes())
    request.parameters["sequence_id"].string_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request


async def listen(target: str, recordings: dict[str, Frames]) -> dict[str, list[float]]:
    """How sure the model is of speech, after each frame of each recording."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = Stub(channel, INFERENCE)

        async def hear(sequence: str, frames: Frames) -> list[float]:
            """Send one frame after the other, each when the one before it was answered."""
            stream = stub.ModelStreamInfer()
            heard: list[float] = []
            for place, frame in enumerate(frames):
                end = place + 1 == len(frames)
                await stream.write(step(sequence, frame, start=not place, end=end))
                answer = await stream.read()
                if answer.error_message:
                    raise RuntimeError(answer.error_message)
                (sure,) = np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)
                heard.append(float(sure))
            await stream.done_writing()
            return heard

        found = await asyncio.gather(*(hear(*each) for each in recordings.items()))
    return dict(zip(recordings, found, strict=True))


def main() -> None:
    """Print one line for each recording."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="127.0.0.1:8001")
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--frames", type=int, default=20)
    options = parser.parse_args()
    # Ids that no other caller can guess, or has by chance: an id alone names a sequence.
    recordings = {
        secrets.token_hex(16): recording(seed, options.frames + seed)
        for seed in range(options.recordings)
    }
    for sequence, sure in asyncio.run(listen(options.target, recordings)).items():
        bars = "".join(" .:-=+*#%@"[min(9, int(10 * each))] for each in sure)
        print(f"{sequence[:8]}  {len(sure):3} frames  |{bars}|  last {sure[-1]:.6f}")


if __name__ == "__main__":
    main()
