"""Ray Serve: a deployment whose method `run` is batched by `@serve.batch`.

Started as a program with its settings as JSON; it prints `ready` and stays.
"""

import asyncio
import json
import signal
import sys

import numpy as np
import ray
from emulated_device import Device
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


def application(settings):
    """The deployment with these settings."""

    @serve.deployment(
        num_replicas=settings["replicas"],
        max_ongoing_requests=settings["ongoing"],
        max_queued_requests=settings["queued"],
        ray_actor_options={"num_cpus": 0.1},
    )
    class Doubling:
        def __init__(self):
            self.device = Device()

        @serve.batch(
            max_batch_size=settings["rows"],
            batch_wait_timeout_s=settings["wait_s"],
            max_concurrent_batches=settings["batches"],
        )
        async def run(self, rows):
            x = np.array(rows, np.float32)
            return (await asyncio.to_thread(self.device.run, x)).tolist()

        async def __call__(self, request: Request):
            return JSONResponse({"y": await self.run((await request.json())["x"])})

    return Doubling.bind()


def main():
    """Serve until SIGTERM."""
    settings = json.loads(sys.argv[1])
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=settings["folder"],
        object_store_memory=100 * 2**20,
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": settings["port"]},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(
        application(settings),
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
